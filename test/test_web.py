"""The live view without a browser: who may connect, what is sent, and what that costs."""

from __future__ import annotations

from collections import defaultdict
from contextlib import contextmanager, suppress
from dataclasses import replace
import http.client
import socket
import struct
import threading
import time
from types import SimpleNamespace
from urllib.parse import urlsplit

import msgspec
import numpy as np
import pytest

from sharp_ros.apps.cli import main
from sharp_ros.camera import Frame, Intrinsics
from sharp_ros.config import from_flat, SharpConfig
from sharp_ros.errors import ConfigError, InputError
from sharp_ros.frame_result import FrameResult, GAUSSIANS
from sharp_ros.gaussians import GaussianArrays, Gaussians
from sharp_ros.mapping.occupancy import OccupancyGrid2D
from sharp_ros.mapping.world_map import WorldMap
from sharp_ros.pipeline import Pipeline
from sharp_ros.se3 import matrix_from_quat
from sharp_ros.snapshot import SnapshotCloud
from sharp_ros.sources import SyntheticSource
from sharp_ros.web import Controls, LiveView, plain, playback
from sharp_ros.web.gate import Gate, MOST_WATCHERS
from sharp_ros.web.playback import play
from sharp_ros.web.splats import half, splats
from sharp_ros.web.still import StillView

viser = pytest.importorskip('viser', reason='viser is not installed')
import websockets.exceptions  # noqa: E402
import websockets.sync.client  # noqa: E402
import zstandard  # noqa: E402

POSE = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.2], [0, 0, 0, 1]], np.float64)


def gaussians_of(stds, count=None, seed=0):
    """Of these standard deviations [N, 3], at random places and turns."""
    rng = np.random.default_rng(seed)
    n = count or len(stds)
    return Gaussians.of_arrays(
        GaussianArrays(
            rng.normal(0, 1, (n, 3)).astype(np.float32),
            rng.normal(0, 1, (n, 4)).astype(np.float32),
            np.broadcast_to(np.asarray(stds, np.float32), (n, 3)).copy(),
            rng.uniform(0.2, 1, n).astype(np.float32),
            rng.uniform(0, 1, (n, 3)).astype(np.float32),
        )
    )


def result_of(width=160, height=120, pose=POSE, count=500, grid=None, stamp_ns=1, hfov=1.2):
    intrinsics = Intrinsics.from_hfov(hfov, width, height)
    image = np.full((height, width, 3), (200, 40, 200), np.uint8)
    frame = Frame(image, intrinsics, stamp_ns, 'camera', pose, 'odom')
    depth = np.full((height, width), 2.0, np.float32)
    depth[0], depth[1], depth[2] = np.nan, np.inf, -np.inf
    gaussians = gaussians_of((0.02, 0.02, 0.02), count)
    return FrameResult(frame=frame, gaussians=gaussians, depth=depth, grid=grid)


@contextmanager
def live_view(controls=None, **settings):
    config = from_flat({'web.port': 0, **{k.replace('__', '.'): v for k, v in settings.items()}})
    live = LiveView(config, controls or Controls())
    try:
        yield live
    finally:
        live.close()


class Watcher:
    """What a browser does on the wire: it takes messages, in a thread, and counts their bytes."""

    def __init__(self, url):
        place = urlsplit(url)
        self.socket = websockets.sync.client.connect(
            f'ws://{place.netloc}/',
            subprotocols=[f'viser-v{viser.__version__}'],
            compression=None,
            max_size=None,
        )
        self.kinds, self.updates, self.bytes = {}, defaultdict(dict), 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        with suppress(websockets.exceptions.ConnectionClosed):
            for data in self.socket:
                self.bytes += len(data)
                _, size = struct.unpack('<QQ', data[:16])
                inner = zstandard.ZstdDecompressor().decompress(data[16 : 16 + size])
                for message in msgspec.msgpack.decode(inner)['messages']:
                    name = message['type'], message.get('name')
                    self.kinds[name] = message
                    self.updates[name[1]] |= message.get('updates', {})

    def wait_for(self, kind, name=None):
        wait_until(lambda: (kind, name) in self.kinds, lambda: f'{kind} {name} in {[*self.kinds]}')
        return self.kinds[kind, name]

    def close(self):
        self.socket.close()
        self._thread.join(5)


def wait_until(condition, what=lambda: 'it', timeout=20.0):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(0.02)


@contextmanager
def watching(url):
    watcher = Watcher(url)
    try:
        yield watcher
    finally:
        watcher.close()


def asked(url, headers=None, method='GET', path=None):
    """Status, headers and text of an HTTP request."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=10)
    target = path or (f'{place.path}?{place.query}' if place.query else place.path)
    connection.request(method, target, headers=headers or {})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, answer.headers, text


# --- what is shown, and what it costs ------------------------------------------------------------


def test_nothing_is_computed_and_little_time_taken_while_nobody_watches(monkeypatch):
    drawn = []
    monkeypatch.setattr(LiveView, '_draw', lambda self, newest: drawn.append(newest))
    with live_view() as live:
        took, result = [], result_of()
        for _ in range(300):
            begun = time.perf_counter()
            assert live.wanted() == set()
            live.offer(result)
            took.append(time.perf_counter() - begun)
        time.sleep(0.2)
        assert not drawn
        assert np.median(took) < 1e-4  # 0.1 ms
        with watching(live.url):
            wait_until(lambda: drawn)


def test_who_comes_late_sees_all_that_was_offered():
    cells = np.full((40, 60), -1, np.int8)
    cells[10:20, 10:30] = 0
    grid = OccupancyGrid2D(cells, 0.05, (-1.0, -1.0))
    with live_view() as live:
        for step in range(3):
            pose = POSE.copy()
            pose[0, 3] = 0.2 * step
            live.offer(result_of(pose=pose, grid=grid if step == 0 else None))
        with watching(live.url) as watcher:
            points = watcher.wait_for('PointCloudMessage', '/cloud')
            assert points['props']['precision'] == 'float16'
            for kind, name in (
                ('CameraFrustumMessage', '/camera'),
                ('LineSegmentsMessage', '/path'),
                ('GaussianSplatsMessage', '/splats'),
            ):
                watcher.wait_for(kind, name)
            plane = watcher.wait_for('ImageMessage', '/grid')['props']
            # the known part alone
            assert (plane['render_width'], plane['render_height']) == pytest.approx((1.0, 0.5))
            live.start_over(None)
            watcher.wait_for('RemoveSceneNodeMessage', '/grid')


def test_the_grid_of_a_new_map_stays_though_its_first_frame_has_none():
    grid = OccupancyGrid2D(np.zeros((40, 60), np.int8), 0.05, (-1.0, -1.0))
    with live_view() as live:
        live.offer(result_of(grid=grid))
        live.start_over(grid)
        live.offer(replace(result_of(), restarted=True))
        assert live._newest.grid is grid
        live.offer(replace(result_of(), restarted=True))  # whose map nobody has told of
        assert live._newest.grid is None


def test_gaussians_are_wanted_only_as_often_as_the_rate_allows():
    with live_view(web__rate_mb_s=0.1) as live, watching(live.url) as watcher:
        wait_until(lambda: live.watched)
        assert GAUSSIANS in live.wanted()
        live.offer(result_of(count=20_000))  # 0.64 MB
        watcher.wait_for('GaussianSplatsMessage', '/splats')
        assert GAUSSIANS not in live.wanted()
        assert 'view/over_shoulder' in live.wanted()
        assert 'view/requested' not in live.wanted()  # nobody has placed a camera


def test_what_is_sent_stays_within_the_rate():
    rate = 1.0
    with live_view(web__rate_mb_s=rate) as live, watching(live.url) as watcher:
        begun, taken, seconds = time.monotonic(), 0, 0.0
        # 3 s on an idle machine; a busy one may first have to compile what packs Gaussians
        while seconds < 3 or (seconds < 30 and (taken <= 20 or watcher.bytes <= 3e5)):
            pose = POSE.copy()
            pose[0, 3] = seconds
            live.offer(result_of(640, 480, pose, count=40_000))
            taken += 1
            time.sleep(0.03)
            seconds = time.monotonic() - begun
        largest = 2 * (40_000 * 32 + 40_000 * 9 + 60_000)  # of one drawing that was begun in time
        assert 3e5 < watcher.bytes < rate * 1e6 * seconds + largest
        print(f'{taken} frames, {watcher.bytes / 1e6:.2f} MB in {seconds:.1f} s')
        assert taken > 20  # it never waited for the browser


def test_a_snapshot_is_shown_where_the_camera_was():
    went_on = POSE.copy()
    went_on[0, 3] = 3.0
    some = np.ones((4, 3), np.float32)
    k = Intrinsics.from_hfov(1.2, 160, 120)
    cloud = SnapshotCloud(some, some.astype(np.uint8), some, some[:, 0], k, 1, 'camera', 2)
    with live_view() as live, watching(live.url) as watcher:
        live.offer(result_of())
        live.offer(result_of(pose=went_on, stamp_ns=2))
        live.offer_snapshot(cloud)
        watcher.wait_for('PointCloudMessage', '/snapshot')
        placed = watcher.wait_for('SetPositionMessage', '/snapshot')['position']
        assert placed == pytest.approx([0, 0, 1.2])


def test_a_camera_with_another_lens_is_shown_with_it():
    with live_view() as live, watching(live.url) as watcher:
        live.offer(result_of())
        first = watcher.wait_for('CameraFrustumMessage', '/camera')['props']
        live.offer(result_of(hfov=0.5, stamp_ns=2))
        wait_until(lambda: 'fov' in watcher.updates['/camera'])
        assert watcher.updates['/camera']['fov'] < 0.6 * first['fov']


def test_a_scene_far_from_the_origin_of_its_world_begins_near_the_camera():
    pose = POSE.copy()
    pose[:2, 3] = 4e5 + 0.25, 5.6e6 + 0.5
    with live_view() as live, watching(live.url) as watcher:
        live.offer(result_of(pose=pose))
        watcher.wait_for('CameraFrustumMessage', '/camera')
        placed = watcher.wait_for('SetPositionMessage', '/camera')
        assert placed['position'][:2] == [0.25, 0.5]


# --- who may connect -----------------------------------------------------------------------------


def test_the_page_is_served_to_this_computer_alone():
    with live_view() as live:
        status, _, text = asked(live.url)
        assert status == 200
        assert b'<html' in text
        assert asked(live.url, {'Host': 'robot.example:80'})[0] == 403  # a name made to point here
        assert asked(live.url, method='POST')[0] == 405
        other = socket.gethostbyname(socket.gethostname())
        if not other.startswith('127.'):
            with pytest.raises(OSError, match='refused'):
                socket.create_connection((other, urlsplit(live.url).port), 2)


def test_other_web_pages_cannot_connect():
    with live_view() as live:
        place = urlsplit(live.url)
        upgrade = {'Upgrade': 'websocket', 'Connection': 'Upgrade'}
        assert asked(live.url, {**upgrade, 'Origin': 'https://evil.example'})[0] == 403
        same = {**upgrade, 'Origin': f'http://{place.netloc}'}
        assert asked(live.url, same)[0] != 403


def test_another_address_asks_for_its_token():
    with live_view(web__address='0.0.0.0') as live:
        place = urlsplit(live.url)
        assert place.query.startswith('token=')
        url = f'http://127.0.0.1:{place.port}/'
        status, _, text = asked(url)
        assert (status, text) == (
            403,
            b'open the address with ?token= that sharp_ros has logged\n',
        )
        assert asked(url + '?token=wrong')[0] == 403
        assert asked(url, {'Cookie': f'sharp_ros_{place.port}=wrong'})[0] == 403
        status, headers, _ = asked(f'{url}?{place.query}')
        assert (status, headers['Location']) == (302, '/')
        cookie = headers['Set-Cookie']
        assert 'HttpOnly' in cookie
        assert asked(url, {'Cookie': cookie.partition(';')[0]})[0] == 200


def test_two_views_have_different_tokens():
    with live_view(web__address='0.0.0.0') as a, live_view(web__address='0.0.0.0') as b:
        assert urlsplit(a.url).query != urlsplit(b.url).query


@pytest.mark.parametrize(
    'head', [b'\r\n\r\n', b'GET\r\n\r\n', b'x' * 50_000, b'GET http://[ HTTP/1.1\r\n\r\n']
)
def test_nonsense_is_not_let_in(head):
    with live_view() as live:
        port = urlsplit(live.url).port
        with socket.create_connection(('localhost', port), 5) as raw, suppress(OSError):
            raw.sendall(head)
            answer = raw.recv(100)
            assert answer[:12] in (b'', b'HTTP/1.1 405')
        assert asked(live.url)[0] == 200


def test_of_fifty_browsers_eight_are_shown_something():
    with live_view() as live:
        live.offer(result_of())
        watchers = []
        for _ in range(50):
            with suppress(websockets.exceptions.InvalidStatus):
                watchers.append(Watcher(live.url))
        assert len(watchers) == MOST_WATCHERS
        status, _, text = asked(live.url)
        assert status == 503
        assert b'close one of them' in text
        for watcher in watchers:
            watcher.wait_for('PointCloudMessage', '/cloud')
            watcher.close()
        wait_until(lambda: not live.watched)
        assert asked(live.url)[0] == 200


def test_a_browser_that_vanishes_amid_a_frame_harms_no_other():
    with live_view() as live:
        for _ in range(3):
            lost = Watcher(live.url)
            live.offer(result_of(640, 480, count=40_000))
            wait_until(lambda: lost.bytes > 1000)  # noqa: B023
            raw = lost.socket.socket
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
            raw.close()  # at once, without a word
        with watching(live.url) as watcher:
            live.offer(result_of())
            watcher.wait_for('PointCloudMessage', '/cloud')
            wait_until(lambda: live._gate.watchers == 1)


def test_a_port_in_use_is_one_clear_line_and_leaves_no_thread():
    with socket.create_server(('localhost', 0)) as taken:
        port, before = taken.getsockname()[1], set(threading.enumerate())
        with pytest.raises(ConfigError, match=f'port {port} of localhost: .*in use.*web.port'):
            LiveView(from_flat({'web.port': port}), Controls())
    wait_until(lambda: not set(threading.enumerate()) - before)


def test_a_view_may_be_closed_twice():
    with live_view() as live:
        live.close()
        assert not live._gate._thread.is_alive()


def test_an_address_that_is_not_ours_is_one_clear_line():
    with pytest.raises(ConfigError, match=r'port 0 of 192\.0\.2\.1: .*web.address'):
        Gate('192.0.2.1', 0, ('127.0.0.1', 1), lambda: None)


def test_the_server_behind_does_not_lead_the_internet_here():
    with live_view() as live:
        assert live._page._viser.request_share_url() is None
        host, _ = live._page.server
        assert host.startswith('127.')
        assert host not in ('127.0.0.1', '127.0.1.1')


def test_text_of_others_is_shown_as_it_is():
    text = '<img src=x onerror=alert(1)> {a} `b` [c](d) _e_ 5 m²\n\n# f'
    escaped = plain(text)
    assert escaped.replace('\\', '') == text.replace('\n\n', ' ')
    assert all(c.isalnum() or c in ' ²\\' or escaped[i - 1] == '\\' for i, c in enumerate(escaped))


# --- Gaussians within the format -----------------------------------------------------------------


def unpacked(buffer):
    """Centres, covariances [N, 3, 3], sRGB and opacities 0..255 of a buffer, by viser itself."""
    handle = SimpleNamespace(buffer=buffer)
    of = viser.GaussianSplatHandle
    parts = (of.centers, of.covariances, of.rgbs, of.opacities)
    return [np.asarray(part.fget(handle)) for part in parts]


def test_viser_loses_small_and_large_gaussians():
    """Why there are limits; viser's own packing, by a handle that sends nothing."""
    buffer = np.zeros((2, 8), np.uint32)
    sizes = np.array([1.7e-4, 257.0], np.float32)
    covariances = np.eye(3, dtype=np.float32) * sizes[:, None, None] ** 2
    with np.errstate(over='ignore'):
        viser.GaussianSplatHandle._pack_covariances(buffer, covariances)
    sent = buffer[:, 4:7].copy().view(np.float16)[:, 0]
    assert sent[0] == 0
    assert sent[1] == np.inf


@pytest.mark.parametrize('stds', [
    (1e-5, 1e-5, 1e-5), (1000, 1000, 1000), (0.5, 0.4, 1e-6), (150, 1e-4, 1e-4), (2e-4, 1e-3, 1),
])  # fmt: skip
def test_every_gaussian_survives_the_format(stds):
    _, sent, _, _ = unpacked(splats(gaussians_of(stds, 2000), 5000))
    assert np.isfinite(sent).all()
    values = np.linalg.eigvalsh(sent)
    assert values.min() > 0.9e-6  # 1 mm
    assert np.sqrt(values.max()) < 201


def test_half_rounds_as_numpy_does():
    values = np.random.default_rng(0).normal(0, 1, (200, 50)).astype(np.float32)
    values *= 10.0 ** np.arange(-9, 1).repeat(5).astype(np.float32)
    ties = (np.arange(1024, 2048, dtype=np.float32) + 0.5) / 1024
    values = np.concatenate([values.ravel(), ties, [0, -0.0, 2**-14, 2**-24, 2**-25, 6e-8, 65000]])
    values = values.astype(np.float32)[None]
    assert np.array_equal(half(values), values.astype(np.float16).view(np.uint16))


def test_gaussians_of_common_sizes_arrive_as_they_are():
    gaussians = gaussians_of((0.03, 0.02, 0.01), 500)
    centres, covariances, colors, opacities = unpacked(splats(gaussians, 500))
    a = gaussians.arrays
    for i in range(0, 500, 50):  # the slow twin
        turn = matrix_from_quat(a.quats[i] / np.linalg.norm(a.quats[i]))
        expected = turn @ np.diag(np.asarray(a.scales[i], np.float64) ** 2) @ turn.T
        assert covariances[i] == pytest.approx(expected, rel=2**-11, abs=1e-7)
    assert np.array_equal(centres, a.means)
    assert opacities[:, 0] == pytest.approx(a.opacities * 255, abs=0.51)
    linear = a.colors.astype(np.float64)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(colors - 255 * srgb).max() < 1


def test_beyond_the_bound_those_that_show_most_are_kept():
    stds = np.full((3000, 3), 0.001)
    stds[::3] = 0.1
    centres, *_ = unpacked(splats(gaussians_of(stds), 1000))
    assert np.array_equal(centres, gaussians_of(stds).arrays.means[::3])


def test_gaussians_that_are_not_finite_or_not_there_are_left_out():
    gaussians = gaussians_of((0.1, 0.1, 0.1), 10)
    a = gaussians.arrays
    a.means[0, 1], a.colors[1, 0], a.opacities[2], a.scales[3, 2] = np.nan, np.inf, 0, np.inf
    centres, covariances, _, _ = unpacked(splats(gaussians, 100))
    assert np.array_equal(centres, a.means[4:])
    assert np.isfinite(covariances).all()


# --- files and recordings ------------------------------------------------------------------------


@pytest.fixture
def still():
    view = StillView(SharpConfig().web.__class__(port=0), '+z')
    yield view
    view.close()


def test_gaussians_of_a_file_are_shown(still):
    still.show(gaussians_of((0.1, 0.1, 0.1), 300))
    assert still.said == '300 Gaussians'
    with watching(still.url) as watcher:
        watcher.wait_for('GaussianSplatsMessage', '/splats')


def test_a_file_without_visible_gaussians_is_refused(still):
    with pytest.raises(InputError, match='no Gaussians that could be seen'):
        still.show(gaussians_of(np.empty((0, 3)), 0))


@pytest.mark.parametrize('content', [
    b'ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty float x\nend_header\n0000',
    b'ply\nformat ascii 1.0\nelement vertex 0\nend_header\n', b'PK\x03\x04', b'',
])  # fmt: skip
def test_a_file_of_another_kind_is_one_clear_line(content, tmp_path, capsys):
    path = tmp_path / 'scene.ply'
    path.write_bytes(content)
    assert main(['view', str(path), '--port', '0']) == 1
    error = capsys.readouterr().err
    assert error.startswith('error: ')
    assert str(path) in error
    assert error.count('\n') == 1


def test_a_clock_that_was_set_stops_no_playback(monkeypatch):
    monkeypatch.setattr(playback, '_LONGEST_PAUSE', 0.2)
    day, tick = 86_400 * 10**9, 5 * 10**7
    stamps = [0, tick, day, day + tick, 0, tick, 2 * tick]
    frames = [result_of(stamp_ns=stamp).frame for stamp in stamps]
    shown = []

    def submit(frame):
        shown.append((frame.stamp_ns, time.monotonic()))

    pipeline = SimpleNamespace(
        config=SharpConfig(), info=SimpleNamespace(needs_depth=False), warm_up=lambda k: None
    )
    source, player = SimpleNamespace(frames=lambda: iter(frames)), SimpleNamespace(submit=submit)
    stop = threading.Event()
    timer = threading.Timer(60, stop.set)  # it waited for a day
    timer.start()
    playback._feed(source, pipeline, player, stop)
    timer.cancel()
    assert [stamp for stamp, _ in shown] == stamps
    begun = shown[0][1]  # the pace is kept before and after
    assert shown[-1][1] - begun > 0.05 + 0.2 + 0.05 + 0.1 - 1e-3


def test_a_recording_is_mapped_shown_saved_and_the_map_opened(tmp_path, still, monkeypatch):
    views, said = [], []
    init = LiveView.__init__
    monkeypatch.setattr(
        LiveView, '__init__', lambda s, *a: (views.append((s, *a)), init(s, *a))[1]
    )
    config = from_flat({
        'model.name': 'sensor', 'web.port': 0, 'output.directory': str(tmp_path),
    })  # fmt: skip
    pipeline, stop = Pipeline.from_config(config), threading.Event()
    source = SyntheticSource(size=(160, 120))
    player = threading.Thread(target=play, args=(source, pipeline, stop, said.append))
    player.start()
    try:
        wait_until(lambda: said, timeout=60)
        live, _, controls = views[0]
        with watching(live.url) as watcher:
            watcher.wait_for('PointCloudMessage', '/cloud')
            watcher.wait_for('ImageMessage', '/grid')
            assert any('shown' in line for line in controls.words())
            folder = controls.buttons['save map']()
            assert 'points of' in controls.buttons['snapshot']()
            watcher.wait_for('PointCloudMessage', '/snapshot')
            live._page.placed = np.array(POSE)
            watcher.wait_for('CameraFrustumMessage', '/view_requested')
            assert controls.buttons['reset']() == 'the map is empty'
    finally:
        stop.set()
        player.join(30)
    assert not player.is_alive()
    from sharp_ros.mapping.map_files import load_map

    still.show(load_map(folder))
    assert 'occupied voxels' in still.said
    with watching(still.url) as watcher:
        watcher.wait_for('ImageMessage', '/grid')
        watcher.wait_for('PointCloudMessage', '/voxels')
    # of more than a page shows, some everywhere
    monkeypatch.setattr('sharp_ros.web.still._MOST_POINTS', 7)
    shown = []
    monkeypatch.setattr(still._page, 'show_points', lambda *args, **_: shown.append(args))
    still.show(load_map(folder))
    (_, _, voxels, colours, _), *_ = shown
    assert len(voxels) == len(colours) <= 7
    every = WorldMap.restored(load_map(folder).config, load_map(folder)).points()
    assert np.array_equal(voxels, every[:: -(-len(every) // 7)])
    left_out = len(every) - len(voxels)
    assert f'{len(every)} occupied voxels, {left_out} of them left out' in still.said
