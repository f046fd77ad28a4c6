from paddleseg_semi.stages import pseudo_label, select_reliable, train  # noqa: F401
