"""How far a student is from its teacher, pixel by pixel."""

import paddle.nn.functional as F

KINDS = ('var', 'kld')


def consistency(student, teacher, kind='var'):
    """Distance of two distributions over the classes.

    'var' is :math:`\\sum_c (p_c - q_c)^2`, 'kld' is :math:`\\sum_c q_c (\\log q_c - \\log p_c)`, with p of the student
    and q of the teacher.

    Args:
        student (Tensor): logits [N, C, H, W].
        teacher (Tensor): logits [N, C, H, W]; no gradient reaches them.
        kind (str, optional): 'var' or 'kld'. Default: 'var'.

    Returns:
        Tensor: [N, H, W].
    """
    teacher = teacher.detach()
    if kind == 'var':
        return (F.softmax(student, axis=1) - F.softmax(teacher, axis=1)).square().sum(1)
    log_p, log_q = F.log_softmax(student, axis=1), F.log_softmax(teacher, axis=1)
    return (log_q.exp() * (log_q - log_p)).sum(1)
