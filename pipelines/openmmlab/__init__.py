"""Code that detection and segmentation share: params, ops, the backbone, and mmengine's Runner on
an existing process group."""
