"""What transforms fill masks with, where they pad, turn or cut out."""

from paddleseg_semi.errors import InputError

_KEYS = 'label_padding_value', 'ignore_index'


def check(transforms, section, base):
    """Refuses transforms that fill masks with what is neither ignore_index nor a class.

    Args:
        transforms (list): what images and masks pass.
        section (str): where the recipe has them.
        base (paddle.io.Dataset): the PaddleSeg data set.

    Raises:
        InputError: naming the transform and its key.
    """
    ignored, classes = base.ignore_index, base.num_classes
    for op in transforms:
        key, value = fill_of(op)
        if value is None or value == ignored >= 0 or 0 <= value < classes:
            continue
        name = type(op).__name__
        remedy = f'Set {key}: {ignored} there.' if ignored >= 0 else (
            f'A filled mask holds no negative number: set {key} and the ignore_index of the data sets to the same '
            f'number, from {classes} to 255.')
        raise InputError(f'{section}: {name} fills masks with {key} {value}, but num_classes is {classes} and '
                         f'ignore_index {ignored}. {remedy}')


def fill_of(transform):
    """tuple[str, int]: the key by which a transform says what it fills masks with, and its value; None if it fills
    none."""
    key = next((key for key in _KEYS if isinstance(getattr(transform, key, None), (int, float))), None)
    return key, key and getattr(transform, key)
