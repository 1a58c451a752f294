"""COCO's annotations: read, checked, and made one reading of both its forms."""
