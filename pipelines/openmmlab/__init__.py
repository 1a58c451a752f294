"""What detection and segmentation share: params, ops, the backbone, and mmengine's Runner on a
given process group."""
