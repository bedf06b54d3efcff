"""Small random training batches for any model of MMEngine, and its loss on them.

Made to run every loss path of a model once, not to train it: images of noise, with a
few boxes, masks, a semantic map and proposals for a detector, with a label for a
classifier. MMDetection and MMPretrain are imported when needed.
"""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from smd_mmdet._text import one_line

__all__ = [
    'comes_from',
    'forward_model',
    'model_loss',
    'sample_inputs',
    'sample_sizes',
]

# Most detectors take 128 pixels; SSD and the deepest pyramids need more.
_DETECTOR_SIZES = (128, 320, 512)
# At 64 pixels the last map of a usual classifier has more than the one pixel that
# leaves batch norm nothing to do; transformers want 224 or 384, LeNet 32.
_OTHER_SIZES = (64, 128, 224, 384, 32)
# Regions of an image that a sampler hands to the second stage.
_REGIONS = 64
# Number of the iteration that models are told. It is late enough for every warm-up
# factor to be 1, and the next one is no multiple of 10, at which some preprocessors
# draw a new image size.
_ITERATION = 100_000


def sample_sizes(model: nn.Module) -> tuple[int, ...]:
    """Sizes of images to try on a model, the cheapest first.

    Args:
        model: A model of MMEngine.

    Returns:
        Heights in pixels.
    """
    return _DETECTOR_SIZES if comes_from(model, 'mmdet') else _OTHER_SIZES


def comes_from(model: nn.Module, *packages: str) -> bool:
    """Whether a model's class, or one it is derived from, is of one of the packages.

    Args:
        model: The model.
        packages: Names of top-level packages, such as 'mmdet'.
    """
    origins = {kind.__module__.partition('.')[0] for kind in type(model).__mro__}
    return not origins.isdisjoint(packages)


def sample_inputs(
    model: nn.Module, size: int = 128, batch_size: int = 2, seed: int = 0
) -> dict | list:
    """A random batch as a training dataloader would collate it for this model.

    No global random generator is used.

    Args:
        model: A detector, tracker, re-identification or semi-supervised model of
            MMDetection, a classifier of MMPretrain, or any other model of MMEngine,
            which is taken for one of images and labels.
        size: Height and width of the images in pixels, a multiple of 32.
        batch_size: Number of images (or clips).
        seed: Seed of the images and boxes.

    Returns:
        The batch: ``inputs`` and ``data_samples``, or a list of images and labels.

    Raises:
        ValueError: If ``size`` is no positive multiple of 32 or ``batch_size`` < 1.
    """
    if size < 32 or size % 32:
        raise ValueError(f'size must be a positive multiple of 32, got {size}')
    if batch_size < 1:
        raise ValueError(f'batch_size must be >= 1, got {batch_size}')
    draw = _Draw(model, size, seed)
    preprocessor = type(model.data_preprocessor).__name__
    if preprocessor == 'TrackDataPreprocessor':
        return _collate([draw.clip(i) for i in range(batch_size)])
    if preprocessor == 'ReIDDataPreprocessor':
        return _collate([draw.person(i) for i in range(batch_size)])
    if preprocessor == 'MultiBranchDataPreprocessor':
        return draw.branches(batch_size)
    if preprocessor == 'ClsDataPreprocessor':
        return _collate([draw.labelled(i) for i in range(batch_size)])
    if preprocessor == 'BaseDataPreprocessor' and not comes_from(model, 'mmdet'):
        return draw.plain(batch_size)
    return _collate([draw.image(i) for i in range(batch_size)])


def model_loss(model: nn.Module, data: dict | list, economical: bool = False) -> Tensor:
    """Total loss of a batch, as ``train_step`` computes it; the batch is not changed.

    Args:
        model: A model of MMEngine, in the mode it is to be run in.
        data: A batch as a dataloader collates it.
        economical: Whether to leave out augmentations of the batch, some of which pad
            images to the size of training, and to take few regions of an image to the
            second stage, whose heads do the same on 64 as on 512.

    Returns:
        The scalar loss.
    """
    detector: Any = model
    limits = _economy(model) if economical else contextlib.nullcontext()
    with _messages(), limits:
        data = detector.data_preprocessor(copy.deepcopy(data), True)
        losses = detector._run_forward(data, mode='loss')
    return detector.parse_losses(losses)[0]


def forward_model(model: nn.Module, notes: list[str]) -> object:
    """Loss of a model on a random batch, or what else it can compute.

    Args:
        model: A model of MMEngine, in train mode.
        notes: List that receives a sentence if the loss could not be computed and the
            outputs of the raw forward pass, or of backbone and neck, stand for it.

    Returns:
        The loss, or the outputs.

    Raises:
        RuntimeError: If nothing could be run.
    """
    error = None
    for size in sample_sizes(model):
        try:
            return model_loss(model, sample_inputs(model, size), economical=True)
        except Exception as failure:  # whatever a foreign model may raise
            error = error or failure
    failed = f'the loss failed: {type(error).__name__}: {one_line(error, 160)}'
    with contextlib.suppress(Exception):
        outputs = _raw_forward(model)
        notes.append(f'judged by the raw outputs, {failed}')
        return outputs
    with contextlib.suppress(Exception):
        outputs = _features(model)
        notes.append(f'judged by the features of backbone and neck, {failed}')
        return outputs
    raise RuntimeError(f'cannot run the model on random images; {failed}') from error


def _raw_forward(model: Any) -> object:
    with _messages():
        data = model.data_preprocessor(sample_inputs(model), True)
        return model._run_forward(data, mode='tensor')


def _features(model: Any) -> object:
    with _messages():
        data = model.data_preprocessor(sample_inputs(model), True)
        return model.extract_feat(data['inputs'])


@contextlib.contextmanager
def _economy(model: nn.Module) -> Iterator[None]:
    """Limit what samplers take from an image, and switch batch augmentation off."""
    before: list[tuple[Any, str, Any]] = []
    module: Any
    for module in model.modules():
        if getattr(module, 'batch_augments', None) is not None:
            before.append((module, 'batch_augments', module.batch_augments))
            module.batch_augments = None
        found = getattr(module, 'bbox_sampler', None)
        samplers: Any = found if isinstance(found, (list, tuple)) else [found]
        for sampler in samplers:
            if isinstance(getattr(sampler, 'num', None), int):
                before.append((sampler, 'num', sampler.num))
                sampler.num = min(sampler.num, _REGIONS)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


@contextlib.contextmanager
def _messages() -> Iterator[None]:
    """Give models the epoch and iteration they read from MMEngine's message hub."""
    from mmengine.logging import MessageHub

    existing = dict(MessageHub._instance_dict)
    hub = MessageHub.get_current_instance()
    info = dict(hub._runtime_info)
    resumed = dict(hub._resumed_keys)
    hub.update_info_dict(dict(epoch=0, iter=_ITERATION, max_epochs=1))
    try:
        yield
    finally:
        for kept, contents in ((hub._runtime_info, info), (hub._resumed_keys, resumed)):
            kept.clear()
            kept.update(contents)
        MessageHub._instance_dict.clear()
        MessageHub._instance_dict.update(existing)


def _collate(samples: list[dict]) -> dict:
    return {key: [sample[key] for sample in samples] for key in samples[0]}


class _Draw:
    """Draws the samples that one model's loss needs."""

    def __init__(self, model: nn.Module, size: int, seed: int) -> None:
        self._rng = np.random.RandomState(seed)
        self._size = size
        self._device = next(model.parameters()).device
        self._classes = self._class_count(model)
        self._channels = self._channel_count(model)
        self._stuff, self._stride = self._semantic_map(model)
        self._text = hasattr(model, 'language_model')
        self._masked = self._takes_masks(model)

    @staticmethod
    def _class_count(model: nn.Module) -> int:
        counts = [getattr(m, 'num_classes', None) for m in model.modules()]
        # The single class of an RPN is that of the boxes only if there is no other.
        return min((n for n in counts if isinstance(n, int) and n > 1), default=1)

    @staticmethod
    def _channel_count(model: nn.Module) -> int:
        """Channels of the images: 1 if the first convolution takes grey ones."""
        first = (m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d))
        return 1 if next(first, 3) == 1 else 3

    @staticmethod
    def _semantic_map(model: Any) -> tuple[int, int]:
        """Classes and stride of the semantic map; 0 classes if the model has none."""
        for module in model.modules():
            if any(
                base.__name__ == 'FusedSemanticHead' for base in type(module).__mro__
            ):
                return module.num_classes, 8
        for module in model.modules():
            stuff = getattr(module, 'num_stuff_classes', 0)
            if isinstance(stuff, int) and stuff > 0:
                return module.num_things_classes + stuff, 1
        return 0, 1

    @staticmethod
    def _takes_masks(model: Any) -> bool:
        """Whether a dataloader of this model hands masks over.

        A preprocessor that pads masks makes tensors of them, too. RTMDet's has none,
        and its assigner takes no masks that are not tensors.
        """
        preprocessor = model.data_preprocessor
        # The preprocessor of a semi-supervised model wraps the detector's.
        preprocessor = getattr(preprocessor, 'data_preprocessor', preprocessor)
        return getattr(preprocessor, 'pad_mask', False) or any(
            name.endswith('mask_head') for name, _ in model.named_modules()
        )

    def _pixels(self, *leading: int) -> Tensor:
        shape = (*leading, self._channels, self._size, self._size)
        return torch.from_numpy(self._rng.randint(0, 256, shape, dtype=np.uint8))

    def _boxes(self) -> np.ndarray:
        """A small, a middling and a large box, for several levels of a pyramid.

        Every further box adds positives, and mask heads are slow in float64.
        """
        sides = self._size * np.array([0.2, 0.45, 0.85])
        sides = sides[:, None] * self._rng.uniform(0.9, 1.1, (len(sides), 2))
        corners = self._rng.uniform(0, 1, sides.shape) * (self._size - sides)
        boxes = np.concatenate([corners, corners + sides], axis=1)
        return boxes.clip(0, self._size).astype(np.float32)

    def _masks(self, boxes: np.ndarray) -> Any:
        from mmdet.structures.mask import BitmapMasks

        rows, columns = np.mgrid[: self._size, : self._size] + 0.5
        masks = []
        for left, top, right, bottom in boxes:
            x = (2 * columns - left - right) / (right - left)
            y = (2 * rows - top - bottom) / (bottom - top)
            masks.append(x**2 + y**2 <= 1)
        return BitmapMasks(np.array(masks, np.uint8), self._size, self._size)

    def _meta(self, index: int) -> dict:
        shape = (self._size, self._size)
        meta = dict(
            img_id=index,
            img_shape=shape,
            ori_shape=shape,
            filename='random.png',
            img_path='random.png',
            scale_factor=(1.0, 1.0),
            flip=False,
            flip_direction=None,
            border=[0, self._size, 0, self._size],
            homography_matrix=np.eye(3, dtype=np.float32),
        )
        if self._text:
            meta.update(text='car . person . tree .', custom_entities=True)
        return meta

    def _instances(self, boxes: np.ndarray, **fields: Any) -> Any:
        from mmengine.structures import InstanceData

        return InstanceData(bboxes=torch.from_numpy(boxes), **fields)

    def _sample(self, index: int) -> Any:
        from mmdet.structures import DetDataSample
        from mmengine.structures import PixelData

        boxes = self._boxes()
        labels = torch.from_numpy(self._rng.randint(0, self._classes, len(boxes)))
        sample = DetDataSample(metainfo=self._meta(index))
        sample.gt_instances = self._instances(
            boxes, labels=labels, instances_ids=torch.arange(len(boxes))
        )
        if self._masked:
            sample.gt_instances.masks = self._masks(boxes)
        sample.ignored_instances = self._instances(boxes[:0])
        proposals = self._proposals(boxes)
        sample.proposals = self._instances(proposals, scores=torch.ones(len(proposals)))
        if self._stuff:
            side = self._size // self._stride
            semantic = self._rng.randint(0, self._stuff, (1, side, side))
            sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(semantic))
        return sample.to(self._device)

    def _proposals(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes that overlap the true ones to every degree."""
        near = boxes + self._rng.normal(0, 0.05 * self._size, boxes.shape)
        far = np.concatenate([self._boxes() for _ in range(4)])
        proposals = np.concatenate([boxes, near, far]).clip(0, self._size)
        wide = (proposals[:, 2:] - proposals[:, :2] > 1).all(axis=1)
        return proposals[wide].astype(np.float32)

    def image(self, index: int) -> dict:
        return dict(
            inputs=self._pixels().to(self._device), data_samples=self._sample(index)
        )

    def labelled(self, index: int) -> dict:
        from mmpretrain.structures import DataSample

        sample = DataSample(metainfo=self._meta(index))
        sample.set_gt_label(int(self._rng.randint(self._classes)))
        return dict(
            inputs=self._pixels().to(self._device),
            data_samples=sample.to(self._device),
        )

    def plain(self, batch_size: int) -> list:
        """Images and labels; every classifier knows the class 0."""
        images = self._pixels(batch_size).float() / 255
        labels = torch.zeros(batch_size, dtype=torch.long)
        return [images.to(self._device), labels.to(self._device)]

    def clip(self, index: int) -> dict:
        from mmdet.structures import TrackDataSample

        frames = []
        for frame in range(2):
            sample = self._sample(index)
            sample.set_metainfo(dict(frame_id=frame, is_video_data=True))
            frames.append(sample)
        clip = TrackDataSample(metainfo=dict(key_frames_inds=[0], ref_frames_inds=[1]))
        clip.video_data_samples = frames
        return dict(inputs=self._pixels(2).to(self._device), data_samples=clip)

    def person(self, index: int) -> dict:
        from mmdet.structures import ReIDDataSample

        sample = ReIDDataSample(metainfo=self._meta(index))
        sample.set_gt_label(np.array(index % 2))
        return dict(
            inputs=self._pixels().to(self._device),
            data_samples=sample.to(self._device),
        )

    def branches(self, batch_size: int) -> dict:
        names = ('sup', 'unsup_teacher', 'unsup_student')
        batches = {
            name: _collate([self.image(i) for i in range(batch_size)]) for name in names
        }
        return {
            key: {name: batches[name][key] for name in names}
            for key in ('inputs', 'data_samples')
        }
