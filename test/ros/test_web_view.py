"""The live view of the node, in a real browser where there is one."""

from __future__ import annotations

from contextlib import contextmanager
import io
import socket
import threading
import time
from urllib.request import urlopen

from browsers import chromium
import numpy as np
from PIL import Image as PillowImage
import pytest
from rclpy.lifecycle import TransitionCallbackReturn
from ros_helpers import CAMERA, start

from sharp_ros.ros.conversions import image_to_msg

pytest.importorskip('viser', reason='viser is not installed')
MAGENTA, GREEN = (230, 20, 230), (20, 200, 20)


@contextmanager
def streaming(peer):
    """Images come, and the executor spins, on a thread of its own; left magenta, right green."""
    image = np.full((120, 160, 3), MAGENTA, np.uint8)
    image[:, 80:] = GREEN
    image[::8, ::8] = 255  # some texture
    ended = threading.Event()

    def run():
        while not ended.is_set():
            peer.send(image=image_to_msg(image, peer.now(), CAMERA))
            end = time.monotonic() + 0.1
            while time.monotonic() < end:
                peer.executor.spin_once(timeout_sec=0.02)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(30)


@pytest.fixture
def browser_page():
    with chromium() as browser:
        page = browser.new_page(viewport={'width': 1000, 'height': 700})
        page.set_default_timeout(60_000)
        yield page


def share(picture, colour):
    """Of a picture [H, W, 3], the share of pixels about this colour, and their mean column."""
    near = (np.abs(picture.astype(int) - colour) < 60).all(-1)
    return near.mean(), np.nonzero(near)[1].mean() if near.any() else 0.0


def scene_of(page):
    """What the browser shows beside the panel."""
    shot = np.asarray(PillowImage.open(io.BytesIO(page.screenshot())).convert('RGB'))
    return shot[:, :650]


def wait_for(condition, timeout=60):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.3)


def test_a_browser_shows_the_points_and_its_buttons_do_what_they_say(
    make_node, peer, browser_page, tmp_path
):
    node = start(
        make_node(web__enabled=True, web__port=0, output__directory=str(tmp_path / 'maps'))
    )
    web = node._session.web
    with streaming(peer):
        browser_page.goto(web.url)
        browser_page.get_by_text('waiting for the first image').wait_for(state='detached')
        wait_for(lambda: share(scene_of(browser_page), MAGENTA)[0] > 0.01)
        browser_page.get_by_label('Gaussians').uncheck()  # grey, in the way of the points
        left, right = (share(scene_of(browser_page), c) for c in (MAGENTA, GREEN))
        assert left[0] > 0.01
        assert right[0] > 0.01
        assert left[1] + 20 < right[1]
        browser_page.get_by_role('button', name='save map').click()
        browser_page.get_by_text(str(tmp_path / 'maps')).wait_for()
        assert (tmp_path / 'maps' / 'latest' / 'map.pgm').exists()
        mapped = len(web._newest.path)
        browser_page.get_by_role('button', name='reset').click()
        browser_page.get_by_text('the map is empty').wait_for()
        assert mapped
        browser_page.get_by_role('button', name='place it here').click()
        browser_page.get_by_text('view requested').wait_for()
    node.trigger_deactivate()
    node.trigger_cleanup()
    with pytest.raises(OSError, match='refused'):
        urlopen(web.url, timeout=5)


def test_a_port_in_use_costs_the_view_alone(make_node, peer):
    with socket.create_server(('localhost', 0)) as taken:
        node = make_node(web__enabled=True, web__port=taken.getsockname()[1])
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node._session.web is None
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    peer.listen('/sharp/depth/image')
    peer.spin_until(lambda: peer.received['/sharp/depth/image'], each=peer.send)


def test_the_words_on_the_page_are_those_of_the_diagnostics(make_node, peer):
    node = start(make_node(web__enabled=True, web__port=0))
    peer.listen('/sharp/depth/image')
    peer.spin_until(lambda: len(peer.received['/sharp/depth/image']) > 2, each=peer.send)
    words = node._session.web._controls.words()
    assert [line.partition('**')[2].partition('**')[0] for line in words] == [
        'Input', 'Inference', 'Mapping', 'Views',
    ]  # fmt: skip
    assert 'dropped' in words[0]
    assert 'age' in words[1]
    assert 'mapped' in words[2]
