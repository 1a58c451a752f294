"""The kind `pretrain`: CAT trained as a classifier on folders in ImageNet's layout."""
