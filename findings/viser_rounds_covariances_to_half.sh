#!/bin/sh
# viser's Gaussians vanish below 0.17 mm, become infinite from 256 m on, and thin discs fold over.
#
# viser 1.1.1, CPython 3.11, x86-64.
#
# A good guess: `add_gaussian_splats` takes covariances as a float array [N, 3, 3], so what it shows
# is what it was given, to float32. In truth they travel as 16-bit floats of square metres, without a
# word in the documentation of its arguments or a warning: 1.7e-4 m squared rounds to 0, 257 m squared
# to inf. Less obvious: each of the six entries is rounded for itself, so the covariance of a disc of
# 1 m by 1 m by 1 mm, tilted, is no covariance any more: its smallest eigenvalue turns negative.
# Seen, of 1000 such discs at random turns: 492 with a negative eigenvalue, down to -3.4e-4 m^2, where
# 1e-6 was given.
# Exit code 0 while all three happen.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq viser==1.1.1
cat > "$folder/show.py" <<'PYTHON'
import numpy as np
import viser

server = viser.ViserServer(host='127.0.0.1', port=0, verbose=False)


def sent(covariances):
    n = len(covariances)
    handle = server.scene.add_gaussian_splats(
        '/splats', np.zeros((n, 3)), covariances, np.ones((n, 3)), np.ones((n, 1))
    )
    return np.asarray(handle.covariances, np.float64)


sizes = np.array([1.7e-4, 257.0])
with np.errstate(over='ignore'):
    small, large = sent(np.eye(3) * sizes[:, None, None] ** 2)[:, 0, 0]
print(f'0.17 mm: {small}, 257 m: {large}')
turns = np.linalg.qr(np.random.default_rng(0).normal(size=(1000, 3, 3)))[0]
discs = turns @ np.diag([1.0, 1.0, 1e-6]) @ turns.transpose(0, 2, 1)
lowest = np.linalg.eigvalsh(sent(discs))[:, 0]
print(f'{(lowest < 0).sum()} of 1000 discs have a negative eigenvalue, down to {lowest.min():.1e}')
assert np.linalg.eigvalsh(discs)[:, 0].min() > 0
assert small == 0 and large == np.inf and (lowest < 0).sum() > 300
server.stop()
PYTHON
"$folder/venv/bin/python" "$folder/show.py"
