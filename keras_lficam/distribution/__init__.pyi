from .batches import (
    distribute as distribute,
    evaluation_batch_size as evaluation_batch_size,
    for_evaluation as for_evaluation,
)
from .peers import (
    check_agreement as check_agreement,
    is_lost_peer as is_lost_peer,
)
from .strategies import (
    DataParallel as DataParallel,
    MultiWorkerMirroredStrategy as MultiWorkerMirroredStrategy,
    is_chief as is_chief,
    strategy as strategy,
    synchronize_batch_normalization as synchronize_batch_normalization,
)
