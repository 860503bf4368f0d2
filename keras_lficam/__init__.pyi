from . import (
    architectures as architectures,
    backbones as backbones,
    comparison as comparison,
    data as data,
    distribution as distribution,
    evaluation as evaluation,
    explainers as explainers,
    explanation as explanation,
    functional as functional,
    layers as layers,
    metrics as metrics,
    pretrained as pretrained,
    reporting as reporting,
    serving as serving,
    training as training,
    visualization as visualization,
)
from .architectures import (
    attach as attach,
    attention_view as attention_view,
    build as build,
)
from .explanation import (
    Explanation as Explanation,
    explain as explain,
    explanation_view as explanation_view,
)
from .layers import (
    AttentionMechanism as AttentionMechanism,
    FeatureImportanceNetwork as FeatureImportanceNetwork,
)
from .serving.exporting import (
    export as export,
)
from .training import (
    Recipe as Recipe,
    fit as fit,
)

__version__: str
