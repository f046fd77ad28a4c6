"""The authors' training script, variants A to D, against our method in our trainer."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from conftest import close, golden, tensor
from paddle import nn
from paddleseg.models.losses import CrossEntropyLoss

from paddleseg_semi.core.clock import Clock
from paddleseg_semi.core.trainer import Plan, Player, Trainer
from paddleseg_semi.methods.advsemiseg import AdvSemiSeg
from paddleseg_semi.methods.base import Task

IGNORE = 255


class ToySegmenter(nn.Layer):
    def __init__(self, width, num_classes):
        super().__init__()
        self.body = nn.Conv2D(3, width, 3, stride=2, padding=1, bias_attr=False)
        self.head = nn.Conv2D(width, num_classes, 3, padding=1)

    def forward(self, x):
        logits = self.head(F.relu(self.body(x)))
        return [F.interpolate(logits, x.shape[2:], mode='bilinear', align_corners=True)]


def variants():
    for name, data in golden('advsemiseg_loop*.npz'):
        for letter in sorted({key.split('_')[0] for key in data if key.endswith('_lambda_adv')}):
            own = {key[len(letter) + 1:]: array for key, array in data.items() if key.startswith(f'{letter}_')}
            yield pytest.param({**data, **own}, id=f'{name}-{letter}')


def toy_task(case):
    losses = {'types': [CrossEntropyLoss(ignore_index=IGNORE)], 'coef': [1]}
    num_classes = int(case['num_classes'])
    return Task(lambda: ToySegmenter(len(case['seg0_body']), num_classes), losses, num_classes, IGNORE)


def build(case):
    """Method and players with the initial weights of the case and the optimisers of the authors' script."""
    method = AdvSemiSeg(
        toy_task(case), adv_weight=float(case['lambda_adv']), semi_adv_weight=float(case['lambda_semi_adv']),
        semi_weight=float(case['lambda_semi']), mask_threshold=float(case['mask_T']),
        semi_start=int(case['semi_start']), semi_start_adv=int(case['semi_start_adv']),
        d_remain=bool(case['d_remain']), ndf=int(case['ndf']), reference_quirks=True)
    method.discriminator.set_state_dict({key[3:]: array for key, array in case.items() if key.startswith('d0_')})
    return method, players_of(method, case)


def players_of(method, case):
    """The players; the segmenter gets its initial weights."""
    model, disc, steps = method.model, method.discriminator, int(case['num_steps'])
    model.set_state_dict({'body.weight': case['seg0_body'], 'head.weight': case['seg0_head_w'],
                          'head.bias': case['seg0_head_b']})

    def schedule(rate):
        return paddle.optimizer.lr.PolynomialDecay(float(rate), steps, end_lr=0, power=float(case['power']))

    lr, lr_d = schedule(case['learning_rate']), schedule(case['learning_rate_d'])
    groups = [{'params': model.body.parameters()}, {'params': model.head.parameters(), 'learning_rate': 10.0}]
    momentum = paddle.optimizer.Momentum(lr, float(case['momentum']), parameters=groups,
                                         weight_decay=float(case['weight_decay']))
    beta1, beta2 = map(float, case['adam_betas'])
    adam = paddle.optimizer.Adam(lr_d, beta1, beta2, parameters=disc.parameters())
    return {'model': Player(model, momentum, lr), 'discriminator': Player(disc, adam, lr_d)}


def make_batch(case, step):
    """The images the script used in this step; streams it did not read are never looked at."""
    images = case['images_u8'].astype('float32') / 64 - 2
    labels = case['labels'].astype('int64')

    def chosen(array, stream):
        return tensor(array[np.maximum(case[f'{stream}_idx'][step], 0)])

    unlabeled = chosen(images, 'unl')
    return {'labeled': {'img': chosen(images, 'lab'), 'label': chosen(labels, 'lab')},
            'unlabeled': {'weak': unlabeled, 'valid': paddle.ones([len(unlabeled), *unlabeled.shape[2:]], 'bool')},
            'ground_truth': {'label': chosen(labels, 'gt')}}


class GradientWatch:
    """Stands in for the optimiser's clear_grad: keeps the gradients the step has used."""

    def __init__(self, player):
        self.player, self.clear = player, player.optimizer.clear_grad
        player.optimizer.clear_grad = self

    def __call__(self, **kwargs):
        self.grads = {name: param.grad.numpy().copy() for name, param in self.player.layer.named_parameters()}
        self.clear(**kwargs)


@pytest.mark.parametrize('case', list(variants()))
def test_loop(case):
    method, players = build(case)
    clock = Clock(int(case['num_steps']))
    trainer = Trainer(method, {}, players, clock, None, None, Plan())
    seg, disc = GradientWatch(players['model']), GradientWatch(players['discriminator'])
    nothing = paddle.zeros([])
    for step in range(clock.iters):
        close(players['model'].optimizer.get_lr(), case['lr'][step])
        close(players['discriminator'].optimizer.get_lr(), case['lr_d'][step])
        losses, stats = trainer.step(make_batch(case, step))

        for term, key, weight in (('sup', 'loss_seg', 1), ('adv', 'loss_adv', case['lambda_adv']),
                                  ('disc_fake', 'loss_d_pred', 0.5), ('disc_real', 'loss_d_gt', 0.5)):
            close(losses[term].item(), case[key][step] * weight)
        nothing_kept = case['semi_ratio'][step] == 0
        for term, key, weight in (('semi', 'loss_semi', case['lambda_semi']),
                                  ('semi_adv', 'loss_semi_adv', case['lambda_semi_adv'])):
            wanted = np.nan_to_num(case[key][step]) * (0 if nothing_kept else weight)  # not computed: no term
            close(losses.get(term, nothing).item(), wanted)
        close(stats.get('kept', nothing).item(), np.nan_to_num(case['semi_ratio'][step]))

        for name, key in (('body.weight', 'body'), ('head.weight', 'head_w'), ('head.bias', 'head_b')):
            close(seg.grads[name], case[f'seg_grad_{key}'][step])
            close(method.model.state_dict()[name].numpy(), case[f'seg_{key}'][step])
        if step == 0:
            for name, grad in disc.grads.items():
                close(grad, case[f'd_grad_first_{name}'])
    for name, param in method.discriminator.state_dict().items():
        close(param.numpy(), case[f'd_final_{name}'])


def test_nothing_kept_still_trains_the_adversarial_term():
    """Where we differ from the published code: no trusted pixel drops the self-training term only."""
    for _, data in golden('advsemiseg_loop*.npz'):
        case = {**data, **{key[2:]: array for key, array in data.items() if key.startswith('A_')}, 'mask_T': 2.0}
        method, _ = build(case)
        method.reference_quirks = False
        step = int(case['semi_start'])
        clock = Clock(int(case['num_steps']))
        clock.iter = step
        losses, stats = method.step(make_batch(case, step), clock)
        assert stats['kept'].item() == 0
        assert losses['semi'].item() == 0
        assert losses['semi_adv'].item() > 0
