"""Gravity and the height of the camera, from what the robot knows to the network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fake_cuda
import numpy as np
import pytest
from seeded_nano import unsettled_network
import torch

from sharp_ros.camera import FloorGeometry, Frame, Intrinsics
from sharp_ros.config import ModelConfig, ScaleConfig, SharpConfig
from sharp_ros.engine import Engine
from sharp_ros.errors import EngineError, InputError
from sharp_ros.exchange import onnx_export
from sharp_ros.inference_queue import CudaQueue
from sharp_ros.models import load_predictor, ModelInfo
from sharp_ros.network.composer import gaussians_from_depth
from sharp_ros.network.nano import fold_batch_norms, LAYOUTS
from sharp_ros.network.onnx_predictor import OnnxNanoPredictor
from sharp_ros.network.predictor import NanoPredictor
from sharp_ros.network.roles import NetworkPredictor
from sharp_ros.network.sessions import OnnxSession
from sharp_ros.pipeline import Pipeline
from sharp_ros.se3 import inverse, look_at, matrix_from_quat, transform

pytestmark = pytest.mark.usefixtures('one_thread')

CAMERA = Intrinsics(70.0, 60.0, 30.0, 25.0, 64, 48)
IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
FLOOR = FloorGeometry(np.array([0.1, -0.9, -0.3]), 1.2)
UP = np.array([0.0, 0.0, 1.0])
INFO = ModelInfo('made here', 'of known depth', 'Apache-2.0', metric=True)


# --- the network ---------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def predictor() -> NanoPredictor:
    network = fold_batch_norms(unsettled_network())
    return NanoPredictor(network.requires_grad_(False))  # type: ignore[arg-type]


@pytest.fixture(scope='module')
def exported(predictor: NanoPredictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    path = tmp_path_factory.mktemp('export') / 'nano.onnx'
    onnx_export.export_nano(predictor, path, {})
    return path


@pytest.fixture
def cuda(monkeypatch):
    return fake_cuda.installed(monkeypatch)


@torch.inference_mode()
def log_depth(predictor: NanoPredictor, geometry: FloorGeometry | None) -> torch.Tensor:
    prediction, _ = predictor.forward(*predictor.inputs(IMAGE, CAMERA, geometry))
    return prediction[:2]


def test_the_network_sees_the_floor_it_is_given(predictor):
    blind, informed = log_depth(predictor, None), log_depth(predictor, FLOOR)
    assert (informed - blind).abs().max() > 0.01
    higher = log_depth(predictor, replace(FLOOR, height=2.4))
    assert (informed - higher).abs().max() > 0.01
    longer = log_depth(predictor, replace(FLOOR, up=3 * FLOOR.up))
    torch.testing.assert_close(informed, longer, atol=1e-5, rtol=0)
    engine = Engine(predictor, ModelConfig(precision='fp32', execution='eager'))
    assert engine.uses_geometry
    depths = [engine.predict(IMAGE, CAMERA, None, g).means[:, 2].log() for g in (FLOOR, None)]
    torch.testing.assert_close(depths[0], informed.flatten(), atol=1e-5, rtol=0)
    torch.testing.assert_close(depths[1], blind.flatten(), atol=1e-5, rtol=0)


def test_onnx_takes_the_floor_as_torch_does(predictor, exported):
    onnx = OnnxNanoPredictor(OnnxSession(exported))
    kind, shape = onnx.session.inputs['geometry']
    assert (kind, shape) == ('tensor(float)', (1, 5))
    for geometry in (None, FLOOR):
        found, truth = log_depth(onnx, geometry), log_depth(predictor, geometry)
        torch.testing.assert_close(found, truth, atol=1e-4, rtol=0)
    engine = Engine(onnx, ModelConfig())
    assert engine.uses_geometry
    engine.prepare()
    assert engine.check_error < 1e-4


def test_one_graph_serves_frames_with_and_without_a_floor(predictor, cuda):
    queue = CudaQueue(predictor.forward, captured=True)
    for geometry in (None, FLOOR, None, replace(FLOOR, height=0.3)):
        inputs = predictor.inputs(IMAGE, CAMERA, geometry)
        with torch.inference_mode():
            (prediction, _), _ = queue.collect(queue.launch(inputs))
        torch.testing.assert_close(prediction[:2], log_depth(predictor, geometry))
    assert len(cuda.graphs) == 1


def test_an_export_that_is_wrong_only_where_a_floor_is_known_is_refused(
    predictor, exported, monkeypatch, tmp_path
):
    import onnx

    model = onnx.load(exported)
    del model.metadata_props[:]
    # a file that takes the floor and does not look at it
    model.graph.initializer.append(
        onnx.numpy_helper.from_array(np.zeros((1, 5), np.float32), 'informed')
    )
    for node in model.graph.node:
        node.input[:] = ['informed' if name == 'geometry' else name for name in node.input]
    monkeypatch.setattr(onnx_export, '_translated', lambda predictor, inputs: model)
    with pytest.raises(EngineError, match='differ from torch'):
        onnx_export.export_nano(predictor, tmp_path / 'nano.onnx', {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('execution', ['eager', 'onnx'])
def test_weights_of_the_first_layout_take_no_notice(execution, tmp_path):
    network = fold_batch_norms(unsettled_network(LAYOUTS[1]))
    nano = NanoPredictor(network.requires_grad_(False))
    if execution == 'onnx':
        pytest.importorskip('onnxruntime')
        pytest.importorskip('onnx')
        onnx_export.export_nano(nano, tmp_path / 'nano.onnx', {})
        nano, _ = load_predictor(str(tmp_path / 'nano.onnx'))
    assert not nano.uses_geometry
    blind, informed = (nano.inputs(IMAGE, CAMERA, geometry) for geometry in (None, FLOOR))
    assert len(blind) == len(informed) == 2
    engine = Engine(nano, ModelConfig(precision='fp32', execution=execution))
    a, b = (engine.predict(IMAGE, CAMERA, None, geometry) for geometry in (None, FLOOR))
    assert torch.equal(a.means, b.means)
    assert torch.equal(a.means, engine.predict(IMAGE, CAMERA).means)


@pytest.mark.parametrize(
    ('up', 'height'),
    [
        ((0, -1), 1.0),
        (((0, -1, 0),), 1.0),
        ((0, 0, 0), 1.0),
        ((0, np.nan, 0), 1.0),
        ((0, -1, 0), 0.0),
        ((0, -1, 0), -1.0),
        ((0, -1, 0), np.inf),
        ((0, -1, 0), np.nan),
    ],
)
def test_what_is_no_direction_or_no_height_is_refused(up, height):
    with pytest.raises(InputError) as caught:
        FloorGeometry(np.array(up, float), height)
    assert caught.value.reason == 'bad_geometry'


def test_a_tensor_of_another_shape_is_refused(predictor, exported):
    small, corner, geometry = predictor.inputs(IMAGE, CAMERA, FLOOR)
    with pytest.raises(InputError, match='geometry must be'):
        predictor.forward(small, corner, geometry[:, :4])
    with pytest.raises(Exception, match='geometry'):
        OnnxNanoPredictor(OnnxSession(exported)).forward(small, corner, geometry[:, :4])


# --- what the robot knows ------------------------------------------------------------------------


class Driven:
    """A pipeline, and what it gives its network of the floor, frame by frame."""

    def __init__(self, **scale) -> None:
        rng = np.random.default_rng(1)
        self.pipeline = Pipeline(
            Engine(self._wall, ModelConfig()), INFO, SharpConfig(scale=ScaleConfig(**scale))
        )
        self.geometries: list[FloorGeometry | None] = []
        self._rng, self._image = rng, rng.integers(0, 256, (48, 64, 3), np.uint8)
        submit = self.pipeline.engine.submit

        def spy(image, intrinsics, depth, geometry):
            self.geometries.append(geometry)
            return submit(image, intrinsics, depth, geometry)

        self.pipeline.engine.submit = spy  # type: ignore[method-assign]

    @staticmethod
    def _wall(image, intrinsics, depth=None):
        return gaussians_from_depth(torch.full((1, 48, 64), 2.0), torch.zeros(3, 48, 64), CAMERA)

    def of(self, pose=None, floor=None, world='odom', stamp_ns=0) -> FloorGeometry | None:
        transforms = {} if floor is None else {'footprint': floor}
        if pose is not None:  # elsewhere it looks different
            self._image = self._rng.integers(0, 256, (48, 64, 3), np.uint8)
        frame = Frame(self._image, CAMERA, stamp_ns, 'camera', pose, world, transforms=transforms)
        self.result = self.pipeline.process(frame, set())
        return self.geometries[-1]


def tilted(seed: int) -> np.ndarray:  # -> [4, 4]
    """A pose 0.6 m over the floor that looks ahead or down, with some roll."""
    rng = np.random.default_rng(seed)
    eye = np.array([*rng.uniform(-3, 3, 2), 0.6])
    ahead = np.array([*rng.normal(0, 1, 2), rng.uniform(-1, 0.2)])
    return look_at(eye, eye + ahead, UP + rng.normal(0, 0.1, 3))


@pytest.mark.parametrize('seed', range(4))
def test_a_frame_on_the_floor_gives_what_the_transform_implies(seed):
    driven, T_floor_camera = Driven(floor_frame='footprint'), tilted(seed)
    known = driven.of(floor=inverse(T_floor_camera), world='')
    assert known.height == pytest.approx(0.6, abs=1e-9)
    np.testing.assert_allclose(T_floor_camera[:3, :3] @ known.up, UP, atol=1e-9)
    # the camera turns in its place: up turns the other way in its frame, the height stays
    turn = transform(matrix_from_quat(np.array([1.0, 0.1, -0.2, 0.3])), np.zeros(3))
    turned = driven.of(floor=inverse(T_floor_camera @ turn), world='')
    np.testing.assert_allclose(turn[:3, :3] @ turned.up, known.up, atol=1e-9)
    assert turned.height == pytest.approx(known.height, abs=1e-9)
    # and rises
    risen = T_floor_camera.copy()
    risen[2, 3] += 0.5
    assert driven.of(floor=inverse(risen), world='').height == pytest.approx(1.1, abs=1e-9)


@pytest.mark.parametrize('seed', range(4))
def test_a_metric_pose_gives_gravity_and_the_configuration_the_height(seed):
    driven, pose = Driven(camera_height=0.75), tilted(seed)
    known = driven.of(pose)
    assert known.height == 0.75  # wherever the world has its origin
    np.testing.assert_allclose(pose[:3, :3] @ known.up, UP, atol=1e-9)
    moved = driven.of(transform(np.eye(3), np.array([5.0, -2.0, 7.0])) @ pose, stamp_ns=1)
    np.testing.assert_allclose(moved.up, known.up, atol=1e-12)


def test_the_frame_on_the_floor_comes_before_the_configuration():
    driven = Driven(floor_frame='footprint', camera_height=2.0)
    assert driven.of(tilted(0), inverse(tilted(1))).height == pytest.approx(0.6)
    assert driven.of(tilted(0), stamp_ns=1).height == 2.0  # tf is silent


@pytest.mark.parametrize(
    ('scale', 'pose', 'floor'),
    [
        ({}, tilted(0), None),
        ({'camera_height': 1.0}, None, None),
        ({'camera_height': 0.04}, tilted(0), None),
        ({'camera_height': 1.0}, np.eye(4), None),  # looks up: no pose of a robot
        ({'floor_frame': 'footprint'}, tilted(0), None),
        ({'floor_frame': 'footprint'}, None, transform(np.eye(3), np.array([0, 0, 1.0]))),
        ({'floor_frame': 'footprint'}, None, transform(np.eye(3), np.array([0, 0, -0.04]))),
        ({'floor_frame': 'footprint'}, None, np.full((4, 4), np.nan)),
        ({}, None, inverse(tilted(0))),
    ],
    ids=[
        'no height',
        'no gravity',
        'too low',
        'identity',
        'no transform',
        'floor above',
        'floor at the camera',
        'not a number',
        'not configured',
    ],
)
def test_no_floor_is_given_where_anything_is_missing(scale, pose, floor):
    assert Driven(**scale).of(pose, floor, world='' if pose is None else 'odom') is None


def test_no_floor_is_given_from_poses_of_visual_odometry():
    driven = Driven(camera_height=1.0)
    for i in range(20):  # it waits a second for the scale first
        driven.of(stamp_ns=i * 10**8)
    assert driven.result.frame.T_world_camera is not None
    assert driven.geometries == [None] * 20


class Stepping(NetworkPredictor):
    """The depth it is given; a quarter more where it does not know the floor."""

    uses_geometry = True

    def __init__(self) -> None:
        super().__init__(torch.nn.Linear(1, 1))
        self.depth = np.empty(0)

    def inputs(self, image, intrinsics, geometry=None):
        return (torch.from_numpy(self.depth * np.float32(1.25 if geometry is None else 1)),)

    def forward(self, *inputs):
        return inputs

    def gaussians(self, outputs, intrinsics, *, covariances=True):
        (depth,) = outputs
        return gaussians_from_depth(depth[None], torch.zeros(3, *depth.shape), intrinsics)


def test_the_map_stays_in_metres_while_tf_is_silent():
    """A camera stands before a wall; a gap of the transform, then none for good."""
    network, k = Stepping(), Intrinsics.from_hfov(1.2, 160, 120)
    pose = look_at(np.array([0.0, 0.0, 0.6]), np.array([3.0, 0.0, 0.3]), UP)
    rays = np.dstack([k.rays(), np.ones((120, 160))]) @ pose[:3, :3].T
    with np.errstate(divide='ignore'):
        floor = np.where(rays[..., 2] < 0, -0.6 / rays[..., 2], np.inf)
    network.depth = np.minimum(floor, 4 / rays[..., 0]).astype(np.float32)
    below = inverse(pose)  # the origin of the world
    scale = ScaleConfig(floor_frame='footprint')
    pipeline = Pipeline(Engine(network, ModelConfig()), INFO, SharpConfig(scale=scale))
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    for i in range(24):
        transforms = {'footprint': below} if i < 8 or 12 <= i < 16 else {}
        frame = Frame(image, k, i * 10**8, 'camera', pose, 'odom', transforms=transforms)
        depth = pipeline.process(frame, set()).depth
        assert np.nanmedian(depth / network.depth) == pytest.approx(1, abs=0.02)


def test_every_network_may_be_given_the_floor_and_those_without_use_for_it_ignore_it():
    sensor = Pipeline.from_config(SharpConfig(model=ModelConfig(name='sensor')))
    depth = np.full((48, 64), 2.0, np.float32)
    assert not sensor.engine.uses_geometry
    informed = sensor.engine.predict(IMAGE, CAMERA, depth, FLOOR)
    assert torch.equal(informed.means, sensor.engine.predict(IMAGE, CAMERA, depth).means)
