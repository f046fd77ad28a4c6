"""Whole iterations of the authors' loop against our method: prescribed outputs, then a tiny network that trains."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from conftest import close, golden, tensor
from paddle import nn
from paddleseg.models.losses import CrossEntropyLoss
from u2pl_draws import Dice, Replay, fill, rows_of

from paddleseg_semi.core.clock import Clock
from paddleseg_semi.core.trainer import Plan, Player, Trainer
from paddleseg_semi.losses.ohem import HardPixelLoss
from paddleseg_semi.methods.base import Task
from paddleseg_semi.methods.u2pl import U2PL
from paddleseg_semi.models.bank import Bank

IGNORE = 255


def cases(topic):
    return [pytest.param(case, id=name) for name, case in golden(f'u2pl_{topic}_*.npz')]


def upsampled(maps, size):
    return F.interpolate(maps, size, mode='bilinear', align_corners=True)


def knobs(case):
    """What the cases with a bank have in common."""
    return {
        'mix': str(case['apply_aug']), 'low_rank': int(case['low_rank']), 'high_rank': int(case['high_rank']),
        'num_queries': int(case['num_queries']), 'num_negatives': int(case['num_negatives']),
        'temperature': float(case['temperature']), 'keep_percent': float(case['drop_percent']),
        'alpha': float(case['low_entropy_threshold']), 'anchor_threshold': float(case['current_class_threshold']),
        'key_threshold': float(case['current_class_negative_threshold']), 'epochs': int(case['epochs']),
        'keys_per_step': 1 << 20, 'reference_quirks': not case['corrected']}


class Script(nn.Layer):
    """A segmenter that says, at the size of its features, what it is told; it is shown to a Tap as `head`."""

    def __init__(self, num_classes, channels, aux):
        super().__init__()
        self.head = Head(num_classes, channels)
        self.aux, self.seen, self.modes = aux, [], []

    def forward(self, x):
        self.seen.append(x.numpy())
        self.modes.append(int(self.training))
        maps = [self.head(self.head.next_feature())]
        if self.aux is not None and self.training:
            maps.append(self.aux)
        return [upsampled(logits, x.shape[2:]) for logits in maps]


class Head(nn.Layer):
    def __init__(self, num_classes, channels):
        super().__init__()
        self.says = []
        self.default = paddle.zeros([1, channels, 2, 2]), paddle.zeros([1, num_classes, 2, 2])

    def next_feature(self):
        return (self.says or [self.default])[0][0]

    def forward(self, feature):
        return self.says.pop(0)[1] if self.says else self.default[1]


def scripted(case):
    """A method whose networks say what the case prescribes, and the leaves that collect the student's gradients."""
    num_classes, channels = int(case['num_classes']), case['student_rep'].shape[1]
    names = ('pred', 'rep', 'aux') if 'student_aux' in case else ('pred', 'rep')
    leaves = {name: tensor(case[f'student_{name}'], grad=True) for name in names}
    kept = int(case['ohem_min_kept'])
    loss = HardPixelLoss(float(case['ohem_thresh']), kept, IGNORE)
    losses = {'types': [loss] * (len(leaves) - 1), 'coef': [1, float(case['aux_weight'])][:len(leaves) - 1]}
    task = Task(lambda: Script(num_classes, channels, leaves.get('aux')), losses, num_classes, IGNORE)
    start = 10 * int(case['sup_only_epoch'])
    method = U2PL(task, warmup=start, teacher_start=start, feature_layer='head', rep_channels=channels,
                  unsup_weight=float(case['unsup_loss_weight']), contra_weight=float(case['loss_weight']),
                  unsure_keys=bool(case['negative_high_entropy']), **knobs(case))
    method.projector, method.teacher.net['projector'] = nn.Identity(), nn.Identity()
    method.bank = Bank([int(size) for size in case['queue_size']], channels)
    fill(method.bank, case)
    method.contrast = method.contrast._replace(sampler=Replay(case))
    method.train()
    method.model.head.says = [(leaves['rep'], leaves['pred'])]
    rep, pred = tensor(case['teacher_rep_train']), tensor(case['teacher_pred_train'])
    unlabeled = len(case['image_u'])
    method.teacher.net['model'].head.says = [(rep[:unlabeled], tensor(case['teacher_pred_eval'])), (rep, pred)]
    return method, leaves


def clock_at(case, monkeypatch):
    clock = Clock(10 * int(case['epochs']))
    clock.iter = 10 * int(case['epoch']) + 3  # any iteration of that epoch
    dice = Dice(case['draw_mix'], float(case['draw_aug_uniform']))
    monkeypatch.setattr(clock, 'rng', lambda name: dice)
    return clock


@pytest.mark.parametrize('case', cases('step'))
def test_step(case, monkeypatch):
    method, leaves = scripted(case)
    model, teacher = method.model, method.teacher.net['model']
    model.seen, model.modes, teacher.seen, teacher.modes = [], [], [], []
    splits, roles = spy(method, '_split'), spy(method, '_contrast')
    size = case['image_u'].shape[2:]
    batch = {'labeled': {'img': tensor(case['image_l']), 'label': tensor(case['label_l'])},
             'unlabeled': {'weak': tensor(case['image_u']),
                           'valid': paddle.ones([len(case['image_u']), *size], 'bool')}}
    losses, stats = method.step(batch, clock_at(case, monkeypatch))
    sum(losses.values()).backward()

    assert model.modes == [case['student_training']]
    assert teacher.modes == case['teacher_calls_training'].tolist()
    assert (model.seen[0] == case['student_input']).all()
    assert (teacher.seen[1] == case['teacher_input_second']).all()

    _, known, _ = splits.arguments
    reliable, low, high = splits.result
    label = roles.arguments[3][len(case['label_l']):].numpy()
    assert (np.where(known, label, IGNORE) == case['label_u_aug']).all()
    assert (np.where(reliable.numpy(), label, IGNORE) == case['unsup_target_after']).all()
    close(stats['kept'].item(), (case['unsup_target_after'] != IGNORE).sum() / known.sum().item())
    rows, columns = (np.arange(small) * full // small for small, full in zip(case['student_pred'].shape[2:], size))
    for name, mask in (('low', low), ('high', high)):
        wanted = case[f'{name}_mask_all'][len(case['label_l']):, 0] > 0
        known_small = known.numpy()[:, rows][:, :, columns]
        assert (mask.numpy()[:, rows][:, :, columns] == (wanted & known_small)).all()

    for name in ('sup', 'unsup', 'contra'):
        close(losses[name].item(), case[f'loss_{name}'], atol=1e-6)
    for name, leaf in leaves.items():
        close(leaf.grad.numpy(), case[f'grad_student_{name}'], rtol=1e-3, atol=1e-7)
    assert method.contrast.sampler.is_used_up()
    for number in range(int(case['num_classes'])):
        close(rows_of(method.bank, number), case[f'bank_after_{number:02d}'], rtol=0, atol=0)


def spy(method, name):
    """Remembers the last call of a function of a method."""
    function = getattr(method, name)

    def call(*arguments):
        call.arguments, call.result = arguments, function(*arguments)
        return call.result

    object.__setattr__(method, name, call)
    return call


class Pixelwise(nn.Layer):
    """A 1x1 convolution, six weights when there are two classes."""

    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Conv2D(3, num_classes, 1, bias_attr=False)
        self.passes = 0

    def forward(self, x):
        self.passes += self.training
        return [self.head(x)]


@pytest.mark.parametrize('case', cases('ema'))
def test_teacher(case):
    epoch, start = int(case['iters_per_epoch']), int(case['iters_per_epoch'] * case['sup_only_epoch'])
    losses = {'types': [CrossEntropyLoss(ignore_index=IGNORE)], 'coef': [1]}
    num_classes = len(case['student_init']) // 3
    method = U2PL(Task(lambda: Pixelwise(num_classes), losses, num_classes, IGNORE), start, start + epoch,
                  rep_channels=2, num_queries=2, num_negatives=2, bank_size=4, bank_first=4,
                  ema_decay=float(case['ema_decay']))
    method.train()
    student, teacher = method.model, method.teacher.net['model']
    assign(student, case['student_init'])
    assign(teacher, case['teacher_init'])
    clock = Clock(epoch * int(case['epochs']))
    image, label = paddle.rand([2, 3, 4, 4]), paddle.zeros([2, 4, 4], 'int64')
    batch = {'labeled': {'img': image, 'label': label},
             'unlabeled': {'weak': image, 'valid': paddle.ones([2, 4, 4], 'bool')}}
    for step, weights in enumerate(case['student_after_step']):
        assert method.deployed is (teacher if step > start else student)
        method.step(batch, clock)
        assign(student, weights)
        clock.tick()
        method.after_update(clock)
        close(teacher.head.weight.numpy().ravel(), case['teacher_after'][step], rtol=1e-5, atol=1e-6)
        assert student.passes == case['student_train_forwards'][step]
        assert teacher.passes == case['teacher_train_forwards'][step]


def assign(net, weights):
    net.head.weight.set_value(weights.reshape(net.head.weight.shape))


class Tiny(nn.Layer):
    """The network of the traces."""

    def __init__(self, num_classes):
        super().__init__()
        self.encoder = nn.LayerDict({
            'conv1': nn.Conv2D(3, 8, 3, stride=2, padding=1, bias_attr=False), 'bn1': nn.BatchNorm2D(8),
            'conv2': nn.Conv2D(8, 8, 3, stride=2, padding=1, bias_attr=False), 'bn2': nn.BatchNorm2D(8)})
        self.decoder = nn.LayerDict({'pred': nn.Conv2D(8, num_classes, 1)})

    def forward(self, x):
        y = x
        for number in '12':
            y = F.relu(self.encoder[f'bn{number}'](self.encoder[f'conv{number}'](y)))
        return [upsampled(self.decoder['pred'](y), x.shape[2:])]


def weights(case, prefix):
    """The tensors of a network in a trace → those of model and projector."""
    found = {}
    for key, array in case.items():
        if key.startswith(prefix):
            name = key[len(prefix):].replace('running_mean', '_mean').replace('running_var', '_variance')
            found[name.replace('decoder.rep', 'projector') if 'decoder.rep' in name else f'model.{name}'] = array
    return found


def trace(case):
    """Method and player with the initial weights of a trace and the optimizer of its program."""
    num_classes, epoch = int(case['C']), int(case['iters_per_epoch'])
    losses = {'types': [CrossEntropyLoss(ignore_index=IGNORE)], 'coef': [1]}
    start, channels = epoch * int(case['sup_only_epoch']), int(case['D'])
    method = U2PL(Task(lambda: Tiny(num_classes), losses, num_classes, IGNORE), start, start + epoch, contra_weight=1.,
                  rep_channels=channels, ema_decay=float(case['ema_decay']), **knobs(case))
    assert method.feature_layer == 'decoder.pred'
    method.projector, method.teacher.net['projector'] = nn.Conv2D(8, channels, 1), nn.Conv2D(8, channels, 1)
    method.bank = Bank([int(size) for size in case['queue_size']], channels)
    student = method.players()['model']
    student.set_state_dict(weights(case, 'student_init/'))
    method.teacher.net.set_state_dict(weights(case, 'teacher_init/'))
    method.train()

    schedule = paddle.optimizer.lr.PolynomialDecay(float(case['base_lr']), epoch * int(case['epochs']), end_lr=0,
                                                   power=0.9)
    groups = [{'params': student['model'].encoder.parameters()},
              {'params': [*student['model'].decoder.parameters(), *student['projector'].parameters()],
               'learning_rate': float(case['head_lr_times'])}]
    optimizer = paddle.optimizer.Momentum(schedule, float(case['momentum']), parameters=groups,
                                          weight_decay=float(case['weight_decay']))
    return method, Player(student, optimizer, schedule)


@pytest.mark.parametrize('case', cases('trace'))
def test_trace(case, monkeypatch):
    method, player = trace(case)
    clock = Clock(int(case['epochs'] * case['iters_per_epoch']))
    trainer = Trainer(method, {}, {'model': player}, clock, None, None, Plan())
    for step, image in enumerate(case['image_u'].astype('float32')):
        prefix = f'iter_{step:02d}_'
        dice = Dice(case[f'{prefix}mix'], *case[f'{prefix}uniform'].tolist())
        monkeypatch.setattr(clock, 'rng', lambda name, dice=dice: np.random.default_rng(0) if name == 'step' else dice)
        sampler = Replay(case, prefix)
        method.contrast = method.contrast._replace(sampler=sampler)
        rate = player.optimizer.get_lr()
        losses, _ = trainer.step({
            'labeled': {'img': tensor(case['image_l'][step].astype('float32')),
                        'label': tensor(case['label_l'][step].astype('int64'))},
            'unlabeled': {'weak': tensor(image), 'valid': paddle.ones([len(image), *image.shape[2:]], 'bool')}})
        assert sampler.is_used_up()
        for name in ('sup', 'unsup', 'contra'):
            close(losses.get(name, paddle.zeros([])).item(), case[f'loss_{name}'][step], atol=1e-6)
        # the program notes the rate after moving it on, but moves it between epochs later
        noted = [rate, player.optimizer.get_lr()]
        assert np.isclose(np.outer(noted, [1, int(case['head_lr_times'])]), case['lr'][step], rtol=1e-6).all(1).any()
        assert method.bank.size.tolist() == case['bank_rows'][step].tolist()
        for name, net in (('student', player.layer), ('teacher', method.teacher.net)):
            wanted = weights(case, f'{name}_{step:02d}/')
            state = net.state_dict()
            assert sorted(state) == sorted(wanted)
            for key, value in state.items():
                close(value.numpy(), wanted[key], rtol=2e-3, atol=1e-3 if 'projector' in key else 2e-4)
    for number in range(int(case['C'])):
        close(rows_of(method.bank, number), case[f'bank_final_{number:02d}'], rtol=0, atol=1e-3)
