"""Training algorithms. Importing fills METHODS."""

from paddleseg_semi.methods import (  # noqa: F401
    advsemiseg,
    affinity,
    augseg,
    corrmatch,
    cps,
    cutmix_seg,
    eader,
    fixmatch,
    imas,
    mean_teacher,
    mlmt,
    prevmatch,
    s4gan,
    sbnet,
    supervised,
    u2pl,
    unimatch,
    unimatch_v2,
)
