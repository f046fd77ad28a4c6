from paddleseg_semi.stages import (  # noqa: F401
    make_cam,
    pseudo_label,
    random_walk,
    refine,
    score,
    select_reliable,
    train,
)
