"""Sample data sets from real scans of handwritten digits, in the layouts of ImageNet, COCO and
ADE20K."""
