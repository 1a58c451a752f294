"""Multi-scale and flip at test time, by the reference's protocol: the metric `miou_ms_flip`.

The model sees each image at six scales, each also mirrored. The twelve softmaxes are mirrored back,
resized to the image and averaged. The scales are relative to `img_scale`, as in the reference. In
mmseg's baseline they are relative to the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from orchestrator.errors import JobError
from pipelines.openmmlab.library import MODELS, BaseModel
from pipelines.openmmlab.recipe import LOAD_IMAGE, Config
from pipelines.segmentation.loading import LOAD_LABELS
from pipelines.segmentation.params import SegmentationParams

RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


def multi_scale_flip_pipeline(params: SegmentationParams) -> list[Config]:
    """A val pipeline whose samples are lists of twelve views."""
    long, short = params.img_scale
    scales = [(int(long * ratio), int(short * ratio)) for ratio in RATIOS]
    views = [
        [{"type": "Resize", "scale": scale, "keep_ratio": True} for scale in scales],
        [{"type": "RandomFlip", "prob": prob, "direction": "horizontal"} for prob in (0.0, 1.0)],
        [LOAD_LABELS],
        [{"type": "PackSegInputs"}],
    ]
    return [LOAD_IMAGE, {"type": "TestTimeAug", "transforms": views}]


def multi_scale_flip_model(model: Config) -> Config:
    return {"type": MultiScaleFlip.__name__, "module": model}


def weights_of_module(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the segmenter under the names that they have in a MultiScaleFlip."""
    return {f"module.{name}": tensor for name, tensor in weights.items()}


@MODELS.register_module()
class MultiScaleFlip(BaseModel):  # type: ignore[misc]  # untyped base
    """Averages a segmenter over the views of an image. It keeps one running sum, because twelve
    maps of 150 classes can take 20 GB."""

    def __init__(self, module: Config) -> None:
        super().__init__()
        self.module = MODELS.build(module)

    def val_step(self, data: Mapping[str, Any]) -> list[Any]:
        """The sample of the image's last view, with the prediction of all views. `data` is in the
        form that TestTimeAug returns.

        Raises JobError for a head with one channel, which has no softmax to average.
        """
        views = [
            {name: part[view] for name, part in data.items()} for view in range(len(data["inputs"]))
        ]
        total_KHW: Tensor | None = None
        for view in views:
            (sample,) = self.module.val_step(view)  # mirrored back, and in the image's size
            if len(sample.seg_logits.data) == 1:
                raise JobError(
                    "tta: needs one channel for each class, but the head of this config has one "
                    "channel for two classes; set tta: false"
                )
            softmax_KHW = sample.seg_logits.data.softmax(dim=0)
            total_KHW = softmax_KHW if total_KHW is None else total_KHW.add_(softmax_KHW)
        assert total_KHW is not None
        sample.pred_sem_seg.data = total_KHW.argmax(dim=0, keepdim=True)
        return [sample]

    def forward(self, *args: object, **kwargs: object) -> None:
        raise AssertionError("only val_step is supported")
