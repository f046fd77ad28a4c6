"""s4GAN: discriminator, losses, the authors' training script; and its branch of image-level labels."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from conftest import close, golden, golden_cases, tensor
from procedural import formula
from test_advsemiseg_loop import IGNORE, GradientWatch, players_of, toy_task

from paddleseg_semi.core.clock import Clock
from paddleseg_semi.core.metrics import confusion_matrix, scores
from paddleseg_semi.core.trainer import Plan, Trainer
from paddleseg_semi.losses.adversarial import feature_distance, one_hot, tell_apart, to_unit_range
from paddleseg_semi.losses.masked import masked_cross_entropy
from paddleseg_semi.methods.mlmt import MLMT, disagreement
from paddleseg_semi.methods.s4gan import S4GAN, convincing
from paddleseg_semi.models.discriminator import ImageDiscriminator
from paddleseg_semi.models.ema import EMA
from paddleseg_semi.models.gated import gate


def weights(case, prefix):
    """The discriminator's tensors; PyTorch has linear weights the other way round."""
    arrays = {key[len(prefix):]: array for key, array in case.items() if key.startswith(prefix)}
    return {name: array.T if name == 'fc.weight' else array for name, array in arrays.items()}


@pytest.mark.parametrize('case', golden_cases('s4gan_discriminator*.npz'))
def test_discriminator(case):
    num_classes, ndf = (int(n) for n in case['dims'][:2])
    net = ImageDiscriminator(num_classes, ndf, dropout=0, img_channels=case['x'].shape[1] - num_classes)
    net.set_state_dict(weights(case, 'w_'))
    x = tensor(case['x'], grad=True)
    logits, features = net(x)
    y = F.sigmoid(logits)
    close(y, case['y'])
    close(features, case['maps'])
    paddle.autograd.backward([y, features], [tensor(case['g_y']), tensor(case['g_maps'])])
    close(x.grad, case['gx'])
    wanted = weights(case, 'gw_')
    for name, param in net.named_parameters():
        close(param.grad, wanted[name])


def published_crops():
    for name, file in golden('s4gan_discriminator*.npz'):
        for tag in sorted(key.removesuffix('_names') for key in file if key.endswith('_names')):
            own = {key[len(tag) + 1:]: array for key, array in file.items() if key.startswith(f'{tag}_')}
            yield pytest.param({**own, 'seed': int(file['formula_seed'])}, id=f'{name}-{tag}')


@pytest.mark.parametrize('case', list(published_crops()))
def test_global_pooling_is_the_authors_window_on_their_crops(case):
    num_classes, ndf, n, height, width = (int(number) for number in case['dims'])
    net = ImageDiscriminator(num_classes, ndf, dropout=0)
    state = {}
    for k, name in enumerate(map(str, case['names'])):
        shape = net.state_dict()[name].shape
        if name == 'fc.weight':
            shape = shape[::-1]
        u = formula(shape, k, case['seed'])
        state[name] = (u * 2 / np.prod(shape[1:]) ** 0.5 if name.endswith('weight') else 0.1 * u).astype('float32')
    net.set_state_dict(weights(state, ''))
    x = 0.5 + 0.5 * formula((n, num_classes + 3, height, width), 9999, case['seed'])
    with paddle.no_grad():
        logits, features = net(tensor(x.astype('float32')))
    close(F.sigmoid(logits), case['y'])
    close(features, case['maps'])


@pytest.mark.parametrize('case', golden_cases('s4gan_losses*.npz'))
def test_self_training(case):
    logits, score = tensor(case['logits'], grad=True), tensor(case['score'])
    pseudo = S4GAN._pseudo(logits, score, paddle.ones([len(logits), *logits.shape[2:]], 'bool'))
    keep = convincing(pseudo, float(case['threshold']))
    chosen = keep.numpy().all((1, 2))
    assert (keep.numpy().any((1, 2)) == chosen).all() and chosen.sum() == int(case['count'])
    np.testing.assert_array_equal(np.flatnonzero(chosen), case.get('selected', np.zeros(0)))
    loss = masked_cross_entropy(logits, pseudo.label, keep)
    loss.backward()
    if chosen.any():
        np.testing.assert_array_equal(pseudo.label.numpy()[chosen], case['pseudo_label'])
        close(loss, case['loss_st'])
        close(logits.grad, case['grad_logits'])
    else:
        assert loss.item() == 0 and not logits.grad.numpy().any()


@pytest.mark.parametrize('case', golden_cases('s4gan_losses*.npz'))
def test_feature_matching(case):
    real, fake = tensor(case['feat_gt'], grad=True), tensor(case['feat_pred'], grad=True)
    loss = feature_distance(real, fake)
    close(loss, case['loss_fm'])
    loss.backward()
    close(real.grad, case['grad_feat_gt'])
    close(fake.grad, case['grad_feat_pred'])


@pytest.mark.parametrize('case', golden_cases('s4gan_losses*.npz'))
def test_discriminator_terms(case):
    prob = [tensor(case['d_prob'], grad=True) for _ in range(2)]
    all_of_them = paddle.ones_like(prob[0], 'bool')
    real, fake = tell_apart(paddle.log(prob[1] / (1 - prob[1])), all_of_them,
                            paddle.log(prob[0] / (1 - prob[0])), all_of_them)
    close(fake, case['loss_d_0'])
    close(real, case['loss_d_1'])
    (real + fake).backward()
    close(prob[0].grad, case['grad_d_0'])
    close(prob[1].grad, case['grad_d_1'])


@pytest.mark.parametrize('case', golden_cases('s4gan_losses*.npz'))
def test_what_the_discriminator_sees(case):
    close(to_unit_range(tensor(case['image'])), case['image_minmax'])
    label, classes = tensor(case['label']), int(case['num_classes'])
    known = (label != int(case['ignore_index'])) & (label >= 0)
    np.testing.assert_array_equal(one_hot(label, classes, known), case['one_hot'])


@pytest.mark.parametrize('case', golden_cases('s4gan_metric*.npz'))
def test_metric(case):
    gt, pred = tensor(case['gt'].reshape(1, 1, -1)), tensor(case['pred'].reshape(1, 1, -1))
    matrix = confusion_matrix(pred, gt, int(case['num_classes']), IGNORE)
    np.testing.assert_array_equal(matrix, case['confusion'])
    close(scores(matrix).class_iou, case['iou'])
    close(scores(matrix).miou, case['miou'])


def variants():
    for name, data in golden('s4gan_loop*.npz'):
        for variant in sorted(key.removesuffix('_lab_idx') for key in data if key.endswith('_lab_idx')):
            own = {key[len(variant) + 1:]: array for key, array in data.items() if key.startswith(f'{variant}_')}
            yield pytest.param({**data, **own}, variant.startswith('official'), id=f'{name}-{variant}')


def build(case, quirks):
    """Method and players with the initial weights of the case and the optimizers of the authors' script."""
    method = S4GAN(toy_task(case), float(case['lambda_fm']), float(case['lambda_st']), float(case['threshold']),
                   ndf=int(case['ndf']), dropout=0, reference_quirks=quirks)
    method.discriminator.set_state_dict(weights(case, 'd0_'))
    return method, players_of(method, case)


def make_batch(case, step):
    """The images the script used in this step."""
    images, labels = (case['images_u8'].astype('float32') - 110) / 64, case['labels'].astype('int64')

    def labeled(stream):
        chosen = case[f'{stream}_idx'][step]
        return {'img': tensor(images[chosen]), 'label': tensor(labels[chosen])}

    weak = tensor(images[case['unl_idx'][step]])
    return {'labeled': labeled('lab'), 'ground_truth': labeled('gt'),
            'unlabeled': {'weak': weak, 'valid': paddle.ones([len(weak), *weak.shape[2:]], 'bool')}}


@pytest.mark.parametrize('case, quirks', list(variants()))
def test_loop(case, quirks):
    method, players = build(case, quirks)
    clock = Clock(int(case['num_steps']))
    trainer = Trainer(method, {}, players, clock, None, None, Plan())
    seg, disc = GradientWatch(players['model']), GradientWatch(players['discriminator'])
    for step in range(clock.iters):
        close(players['model'].optimizer.get_lr(), case['lr'][step])
        close(players['discriminator'].optimizer.get_lr(), case['lr_d'][step])
        losses, stats = trainer.step(make_batch(case, step))

        for term, key, weight in (('sup', 'loss_ce', 1), ('fm', 'loss_fm', case['lambda_fm']),
                                  ('semi', 'loss_st', case['lambda_st']), ('disc_fake', 'loss_d_fake', 0.5),
                                  ('disc_real', 'loss_d_real', 0.5)):
            close(losses[term].item(), np.nan_to_num(case[key][step]) * weight)
        close(stats['d_unlabeled'].item(), case['score'][step].mean())
        used = case['count'][step] / case['score'].shape[1] * (step > 0)
        close(stats['kept'].item(), used)

        for name, key in (('body.weight', 'body'), ('head.weight', 'head_w'), ('head.bias', 'head_b')):
            close(seg.grads[name], case[f'seg_grad_{key}'][step])
            close(method.model.state_dict()[name].numpy(), case[f'seg_{key}'][step])
        if step == 0:
            first = weights(case, 'd_grad_first_')
            for name, grad in disc.grads.items():
                close(grad, first[name])
    final = weights(case, 'd_final_')
    for name, param in method.discriminator.state_dict().items():
        close(param.numpy(), final[name])


@pytest.mark.parametrize('name, case', golden('s4gan_mlmt*.npz'))
def test_teacher_of_classes(name, case):
    decay, student = float(case['ema_decay']), paddle.nn.Linear(case['ema_student'].shape[1], 1, bias_attr=False)

    def give(array):
        student.weight.set_value(array.astype('float32')[:, None])

    give(case['ema_teacher'][0])
    teacher = EMA(student, decay)
    method = MLMT.__new__(MLMT)                              # its rule alone, without a network of classes
    paddle.nn.Layer.__init__(method)
    method.model, method.teacher = student, teacher
    for t, step in enumerate(case['ema_steps']):
        give(case['ema_student'][t])
        clock = Clock(10**9)
        clock.iter = int(step)
        method.after_update(clock)
        close(teacher.net.weight.numpy()[:, 0], case['ema_teacher'][t + 1])


@pytest.mark.parametrize('name, case', golden('s4gan_mlmt*.npz'))
def test_consistency_of_classes(name, case):
    student, teacher = tensor(case['student_logits'], grad=True), tensor(case['teacher_logits'])
    loss = disagreement(student, teacher)
    close(loss, case['cosine_loss'])
    loss.backward()
    close(student.grad, case['cosine_grad_student'])


@pytest.mark.parametrize('name, case', golden('s4gan_mlmt*.npz'))
def test_weight_of_consistency(name, case):
    method = MLMT(toy_task({'num_classes': 2, 'seg0_body': np.zeros(1)}), cons_start=10, rampup=0.5)
    clock = Clock(len(case['epochs']))
    for epoch, weight in zip(case['epochs'], case['w_cons']):
        clock.iter = int(epoch)
        close(method.weight_now(clock), weight)


@pytest.mark.parametrize('name, case', golden('s4gan_mlmt*.npz'))
def test_absent_classes(name, case):
    logits, scores = tensor(case['fuse_logits']), tensor(case['fuse_class_scores'].astype('float32'))
    threshold = float(case['fuse_threshold'])
    published = gate(logits, scores, threshold, reference_quirks=True)
    close(published, case['fuse_output'])
    np.testing.assert_array_equal(published.argmax(1), case['fuse_argmax'])

    found = case['fuse_class_scores'] >= threshold
    wanted = np.where(found[:, :, None, None] | ~found.any(1)[:, None, None, None], case['fuse_logits'], -np.inf)
    np.testing.assert_array_equal(gate(logits, scores, threshold).argmax(1), wanted.argmax(1))
