"""AffinityNet: pairs, labels, loss, network and random walk; the walk between boundaries of IRN."""

import functools

import numpy as np
import paddle
import pytest
from conftest import close, golden, golden_cases, tensor
from paddle import nn
from procedural import Given, procedural

from paddleseg_semi.core import walk
from paddleseg_semi.datasets.maps import sure_labels
from paddleseg_semi.losses.affinity import affinity_losses, pair_sets
from paddleseg_semi.models.affinity import AffinityNet, affinities, fitting_radius, from_sources, half_disk
from paddleseg_semi.models.name_rules import LAYOUTS
from paddleseg_semi.models.resnet38d import ResNet38d

LAYOUT = LAYOUTS['AffinityNet']['affinitynet']


def cases(topic):
    return [pytest.param(case, id=name) for name, case in golden(f'affinity_{topic}*.npz')]


def near(actual, wanted, rtol=1e-4):
    close(actual, wanted, rtol=0, atol=1e-6 + rtol * np.abs(wanted).max())


def pairs(height, width, steps):
    """Sources [S] and what each step leads to [P, S], as numbers of pixels."""
    at = from_sources(np.arange(height * width).reshape(height, width), steps)
    return at(0, 0).ravel(), np.stack([at(*step).ravel() for step in steps])


@pytest.mark.parametrize('case', cases('pairs'))
def test_pairs(case):
    for k in range(int(case['count'])):
        height, width, radius = map(int, case['sizes'][k])
        steps = half_disk(radius)
        source, target = pairs(height, width, steps)
        assert np.array_equal(steps, case[f'p{k}_offsets_dy_dx'])
        assert np.array_equal(source, case[f'p{k}_from'])
        assert np.array_equal(target.ravel(), case[f'p{k}_to'])
        stacked = np.stack([np.broadcast_to(source, target.shape).ravel(), target.ravel()], 1)
        assert np.array_equal(stacked, case[f'p{k}_stacked'])
    height, width, radius = map(int, case['circle_size'])
    disk = half_disk(radius)
    source, target = pairs(height, width, sorted([*disk, *((-dy, -dx) for dy, dx in disk)]))
    assert np.array_equal(source, case['circle_from'])
    assert np.array_equal(target.ravel(), case['circle_to'])


def sets_of(label, count):
    """[N, P, S] bool: the three kinds of pairs of labels [N, h, w], P steps."""
    radius = next(radius for radius in range(2, 20) if len(half_disk(radius)) == count)
    steps = half_disk(radius)
    at = from_sources(tensor(label.astype('int64')), steps)
    kinds = pair_sets(at(0, 0).unsqueeze(1), paddle.stack([at(*step) for step in steps], 1))
    return [kind.flatten(2) for kind in kinds]


@pytest.mark.parametrize('case', cases('labels'))
def test_pair_sets(case):
    names = [key.removesuffix('_label') for key in case if key.endswith('_label')]
    assert names
    for name in names:
        wanted = [case[f'{name}_{kind}'] for kind in ('bg', 'fg', 'neg')]
        for actual, array in zip(sets_of(case[f'{name}_label'][None], len(wanted[0])), wanted):
            assert np.array_equal(actual[0].numpy(), array)


@pytest.mark.parametrize('case', cases('lowhigh'))
def test_sure_labels(case):
    low, high = (case[name].astype('float32') for name in ('low', 'high'))
    label = sure_labels(low, high, np.arange(len(low)))
    assert np.array_equal(label, case['label'])
    wanted = [case[kind] for kind in ('bg', 'fg', 'neg')]
    for actual, array in zip(sets_of(label[None], len(wanted[0])), wanted):
        assert np.array_equal(actual[0].numpy(), array)
    by_class = sure_labels(low, high, case['keys'])
    assert np.array_equal(by_class, np.append(case['keys'], 255)[np.where(label == 255, len(low), label)])


@pytest.mark.parametrize('case', cases('loss'))
def test_loss(case):
    affinity = tensor(case['affinity'], grad=True)
    kinds = sets_of(case['label'], affinity.shape[1])
    for kind, name in zip(kinds, ('bg', 'fg', 'neg')):
        assert int(kind.sum()) == int(case[f'{name}_cnt'])
    terms = affinity_losses(affinity, *kinds)
    for term, name in zip(terms, ('bg', 'fg', 'neg')):
        close(term, case[f'{name}_loss'])
    loss = terms[0] / 4 + terms[1] / 4 + terms[2] / 2
    close(loss, case['loss'])
    loss.backward()
    near(affinity.grad, case['grad_affinity'])


@pytest.mark.parametrize('case', cases('forward'))
@paddle.no_grad()
def test_heads(case):
    weights = LAYOUT.ours({key[2:]: array for key, array in case.items() if key.startswith('w_')})
    widths = [len(weights[f'reduce.{k}.weight']) for k in range(3)]
    for name in ('fwd', 'small'):
        features = [tensor(case[f'{name}_feat_conv{k}']) for k in (4, 5, 6)]
        net = AffinityNet(Given(features), (0, 1, 2), widths, len(weights['embed.weight']))
        missing, unexpected = net.set_state_dict(weights)
        assert not missing and not unexpected
        height, width = features[0].shape[2:]
        radius = fitting_radius(5, height, width)
        assert radius == case[f'{name}_radius']
        steps = half_disk(radius)
        feature = net(None)[0]
        found = affinities(feature, steps)
        near(found.flatten(2), case[f'{name}_pairwise'])
        near(walk._symmetric(found[0].numpy(), 1, steps, height, width).toarray(), case[f'{name}_dense'])
        if f'{name}_batch2_pairwise' in case:
            net.backbone.features = [paddle.concat([each, each[:, :, ::-1]]) for each in features]
            near(affinities(net(None)[0], steps).flatten(2), case[f'{name}_batch2_pairwise'])


@pytest.fixture(scope='module')
def network():
    """The network of the paper. Its start from random weights would take longest."""
    nn.initializer.set_global_initializer(nn.initializer.Constant(0.))
    try:
        return AffinityNet(ResNet38d())
    finally:
        nn.initializer.set_global_initializer(None)


@pytest.mark.parametrize('case', cases('net'))
@paddle.no_grad()
def test_whole_network(case, network):
    names = dict(zip(LAYOUT.ours(dict.fromkeys(case['tensor_names'].tolist())), case['tensor_names'].tolist()))
    state = network.state_dict()
    assert state.keys() == names.keys()
    network.set_state_dict({name: procedural(names[name], list(value.shape)) for name, value in state.items()})
    network.eval()
    x, raw = tensor(case['image']), []
    network.embed.register_forward_post_hook(lambda _, inputs, output: raw.append(output))
    features = network.backbone(x)
    for number, index in zip((3, 4, 5, 6), (2, *network.backbone_indices)):
        assert list(features[index].shape) == case[f'conv{number}_shape'].tolist()
        near(features[index].mean([0, 2, 3]), case[f'conv{number}_mean'])
    feature = network(x)[0]
    assert list(raw[0].shape) == case['f9_raw_shape'].tolist()
    near(raw[0].mean([0, 2, 3]), case['f9_raw_mean'])
    height, width = feature.shape[2:]
    steps = half_disk(fitting_radius(5, height, width))
    found = affinities(feature, steps)
    near(found.flatten(2), case['pairwise'])
    near(walk._symmetric(found[0].numpy(), 1, steps, height, width).toarray(), case['dense'])


@pytest.mark.parametrize('case', cases('net'))
def test_what_is_trained(case, network):
    trained = [name for name, param in network.named_parameters() if not param.stop_gradient]
    heads = [name for name in trained if not name.startswith('backbone.')]
    assert [len(trained) - len(heads), 0, len(heads), 0] == case['group_tensor_counts_after_train_call'].tolist()
    sizes = [value.size for name, value in network.state_dict().items() if not name.endswith(('_mean', '_variance'))]
    assert sum(sizes) == int(case['total_parameters'])


@pytest.mark.parametrize('case', golden_cases('affinity_walk*.npz', 'w', 'count'))
def test_walk(case):
    height, width = map(int, case['size'])
    scores = walk.cell_scores(case['cam'].astype('float32'), float(case['alpha']))
    cells = scores.shape[1:]
    assert [8 * side for side in cells] == case['network_input_shape'][2:].tolist()
    steps = half_disk(fitting_radius(5, *cells))
    source, target = pairs(*cells, steps)
    affinity = case['affinity_dense'][source, target]
    found = walk.walk(scores, affinity, steps, float(case['beta']), int(case['logt']))
    classes = np.append(0, case['cam_keys'] + 1)
    near(found, case['walked'][classes])
    near(exact(scores, affinity, steps, float(case['beta']), int(case['logt'])), found, 1e-6)
    enlarged = walk.enlarged(found, height, width)
    near(enlarged.max(0), case['upsampled_top'])
    assert (classes[enlarged.argmax(0)] != case['labels']).mean() < 0.002


def exact(scores, affinity, steps, beta, log_steps):
    """The walk by powers of the dense matrix, in float64."""
    matrix = walk._symmetric(affinity, beta, steps, *scores.shape[1:]).toarray()
    matrix /= matrix.sum(0)
    power = np.linalg.matrix_power(matrix, 2 ** log_steps)
    return (scores.reshape(len(scores), -1) @ power).reshape(scores.shape)


@pytest.mark.parametrize('case', cases('irn'))
def test_irn(case):
    grid, radius, beta = case['path_grid_hw'], int(case['radius']), int(case['beta'])
    steps = half_disk(radius)
    order = [steps.index(tuple(step)) for step in case['dst_offsets_dy_dx'].tolist()]
    source, target = pairs(*grid, steps)
    assert np.array_equal(source, case['src_indices'])
    assert np.array_equal(target[order], case['dst_indices'])

    at = from_sources(np.arange(grid.prod()).reshape(grid), steps)
    for group in range(int(case['path_group_count'])):
        offsets = case[f'paths{group}_offsets_dy_dx']
        for path, indices in zip(offsets.tolist(), case[f'paths{group}_indices']):
            cells = walk.strip(*path[0])
            assert sorted(cells) == sorted(map(tuple, path))
            assert np.array_equal([at(*cell).ravel() for cell in map(tuple, path)], indices)

    edge = case['edge_in'][0]
    found = walk.edge_affinities(edge, steps)
    near(found[order].reshape(1, len(steps), -1), case['edge_affinity'])
    near(walk._symmetric(found, 1, steps, *grid).toarray(), case['edge_dense'])
    every_pixel = np.eye(edge.size, dtype='float32').reshape(-1, *edge.shape)
    near(walk.walk(every_pixel, found, steps, beta, log_steps=2).reshape(edge.size, -1), case['transition'])
    walked = walk.walk_between(case['walk_in'], case['walk_edge'][0], radius, beta, int(case['exp_times']))
    near(walked, case['walk_out'][:, 0])


def test_a_small_image_does_not_walk(network):
    """As on a map of one cell, where nothing has neighbors."""
    cams = np.full([1, 5, 7], 0.25, 'float32')
    found = walk.refine(network, np.zeros([3, 5, 7], 'float32'), cams, alpha=1)
    share = 5 * 7 / 64  # the rest of the cell lies outside
    close(found, np.stack([0.75 * share * np.ones([5, 7]), 0.25 * share * np.ones([5, 7])]))


def test_what_is_alike_walks_together():
    """A map that marks a part of one of two uniform areas comes to cover that area."""
    class TwoAreas(nn.Layer):
        def forward(self, x):
            left = paddle.zeros([1, 4, x.shape[2] // 8, x.shape[3] // 8])
            left[:, :, :, :8] = 1
            return [4 * left]

    cams = np.zeros([1, 100, 124], 'float32')
    cams[:, 40:64, 24:48] = 1
    refine = functools.partial(walk.refine, TwoAreas(), np.zeros([3, 100, 124], 'float32'), cams, log_steps=8)
    scores = refine(beta=8)[1]
    assert scores.shape == (100, 124)
    assert scores[20:80, 20:55].min() > 0.05 and scores[:, 75:].max() < 1e-6
    assert refine(beta=0)[1][20:80, 75:100].min() > 0.05, 'then all neighbors are alike'
