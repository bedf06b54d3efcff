"""The paper's claims on real images: what is trained, and the page."""
