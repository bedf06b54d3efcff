"""How an optimizer's law reads in the reasons of checks."""

from dataclasses import dataclass

from smd_mmdet.theory import Theory

__all__ = ['Words']

_RAISED = {2: '²', 4: '⁴'}


@dataclass(frozen=True)
class Words:
    """Symbols of a law.

    Args:
        known: What is known of the optimizer.
        momentum: Momentum of the run, or β₁.

    Example:
        >>> from smd_mmdet.theory import THEORIES
        >>> sgd, adamw = (Words(THEORIES[name], 0.9) for name in ('sgd', 'adamw'))
        >>> sgd.power, sgd.rate(0.0), sgd.law
        ('‖w‖⁴', '4λη/(1−α)', 'Δ_rms/Δ*·(‖w‖/w*)²')
        >>> adamw.power, adamw.rate(0.0), adamw.law
        ('‖w‖²', '2λη', 'Δ_rms/Δ*·‖w‖/w*')
        >>> sgd.rate(1.0)  # where half of the steps are clipped
        '(4−1)λη/(1−α)'
    """

    known: Theory
    momentum: float

    @property
    def adaptive(self) -> bool:
        """Whether the update has a size of its own, whatever that of the gradient."""
        return self.known.drive == 'update_sq'

    @property
    def power(self) -> str:
        """The power of the norm that obeys a linear law."""
        return f'‖w‖{_RAISED[self.known.exponent]}'

    @property
    def power_eq(self) -> str:
        """The same of the equilibrium norm."""
        return f'w*{_RAISED[self.known.exponent]}'

    @property
    def law(self) -> str:
        """What the transient law says is 1."""
        return 'Δ_rms/Δ*·' + ('‖w‖/w*' if self.adaptive else '(‖w‖/w*)²')

    @property
    def drive(self) -> str:
        """What drives the norm."""
        return 'U' if self.adaptive else 'h̃'

    @property
    def mean(self) -> str:
        """The mean of what drives the norm."""
        return 'U' if self.adaptive else 'L'

    @property
    def no_drive(self) -> str:
        """Where that means nothing."""
        return f'the mean of {self.drive} is not positive'

    @property
    def momentum_name(self) -> str:
        """What the settings call the momentum."""
        return 'β₁' if self.adaptive else 'momentum'

    def rate(self, clipping: float) -> str:
        """The rate at which a distance from equilibrium is lost.

        Args:
            clipping: The power p with which the drive grows with the norm.
        """
        exponent = f'{self.known.exponent}'
        if round(clipping, 2):
            exponent = f'({exponent}−{clipping:.2g})'
        return f'{exponent}λη' + ('' if self.adaptive else '/(1−α)')
