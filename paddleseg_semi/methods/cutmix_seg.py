"""CutMix-Seg (French et al., "Semi-supervised semantic segmentation needs strong, varied perturbations", BMVC 2020)."""

from paddleseg_semi.losses.consistency import KINDS, consistency
from paddleseg_semi.methods.common import PARTNERS, mixing_streams, partner_batch
from paddleseg_semi.methods.mean_teacher import MeanTeacher
from paddleseg_semi.methods.pseudo import Pseudo
from paddleseg_semi.ranges import AT_LEAST_ONE, SHARE, SHARES, SWITCH, OneOf
from paddleseg_semi.registries import METHODS
from paddleseg_semi.transforms.mixing import paste, toggled_boxes


@METHODS.add_component
class CutMixSeg(MeanTeacher):
    """A mean teacher looks at two images, the student at a mixture of the two; the student's answer has to be the
    mixture of the teacher's.

    Args:
        task (Task): what is to be learned.
        cons_weight (float): of the consistency term, a mean over pixels of a sum over classes.
        rampup (int|float): until then the weight grows, see `MeanTeacher`.
        conf_thresh (float): the teacher's probability, 0..1, from which it is sure of a pixel.
        conf_per_pixel (bool): True: only sure pixels count; False: all do, times the share of sure ones.
        distance (str): 'var', squared difference of probabilities, or 'kld', Kullback-Leibler divergence.
        boxes (int): per image.
        box_share (Sequence[float]): range of their area as a share of the image.
        partner (str): what is pasted: 'other', an image of a second unlabeled batch; 'reversed', of the same batch;
            'same', another crop of the image itself.
        ema_decay, ema_warmup, teacher_bn: of the teacher, see `MeanTeacher`.
    """

    ranges = {**{key: range_ for key, range_ in MeanTeacher.ranges.items() if key != 'reference_quirks'},
              'conf_thresh': SHARE, 'conf_per_pixel': SWITCH, 'distance': OneOf(KINDS), 'boxes': AT_LEAST_ONE,
              'box_share': SHARES, 'partner': OneOf(PARTNERS)}

    def __init__(self, task, cons_weight=1.0, rampup=0, conf_thresh=0.97, conf_per_pixel=False, distance='var', boxes=1,
                 box_share=(0.5, 0.5), partner='other', ema_decay=0.99, ema_warmup=False, teacher_bn='running'):
        super().__init__(task, cons_weight, rampup, ema_decay, ema_warmup, teacher_bn)
        self.conf_thresh, self.conf_per_pixel, self.distance = conf_thresh, conf_per_pixel, distance
        self.boxes, self.box_share = boxes, box_share
        self.streams = mixing_streams(partner, views=1)

    def semi_step(self, batch, clock):
        first, second = batch['unlabeled'], partner_batch(batch)
        n, _, *size = first['weak'].shape
        mask = toggled_boxes(clock.rng('mask'), n, size, self.box_share, self.boxes)        # [N, H, W], True: second
        losses = {'sup': self.supervised(batch['labeled'])}

        valid = paste(mask, second['valid'], first['valid'])
        teacher_first = self.teach(first['weak'])
        teacher = paste(mask, self.teach(second['weak']), teacher_first)                    # [N, C, H, W]
        pseudo = Pseudo.of(teacher, valid)
        sure = (pseudo.conf >= self.conf_thresh).astype('float32')                          # of padding too
        student = self.model(paste(mask, second['strong'], first['strong']))[0]
        trust = sure if self.conf_per_pixel else sure.mean()
        distance = consistency(student, teacher, self.distance)                             # [N, H, W]
        losses['cons'] = self.weight_now(clock) * (distance * valid.astype('float32') * trust).mean()
        return losses, {'kept': pseudo.kept(pseudo.sure(self.conf_thresh)), 'conf': pseudo.conf.mean()}

    def explain(self, unlabeled, clock):
        pseudo, _ = super().explain(unlabeled, clock)
        return pseudo, pseudo.sure(self.conf_thresh)
