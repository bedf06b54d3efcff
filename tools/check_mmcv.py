#!/usr/bin/env python3
"""Proves that MMCV's operators work: each against a few lines of plain torch.

    python tools/check_mmcv.py              # on the CPU, and on the GPU if there is one
    python tools/check_mmcv.py --device cuda

It imports all of ``mmcv.ops`` and compares NMS, RoIAlign, deformable convolution, the
focal loss and the rotated operators, values and gradients, with what their
definitions give. It ends with status 1 and one line where they differ.
"""

import argparse
import importlib
import pkgutil
import sys

try:
    import torch
    import torch.nn.functional as F
except ImportError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(1)

SIZE = 24


def boxes_of(count: int) -> torch.Tensor:
    """Boxes (x1, y1, x2, y2) well inside an image of SIZE pixels.

    What is read beyond the edge is a convention that differs between operators.
    """
    corner = 1 + torch.rand(count, 2) * (SIZE - 14)
    return torch.cat([corner, corner + 3 + 8 * torch.rand(count, 2)], dim=1)


def iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The overlap of each box of a with each of b, shape (len(a), len(b))."""
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    common = (high - low).clamp(min=0).prod(-1)
    area_a, area_b = ((x[:, 2:] - x[:, :2]).prod(-1) for x in (a, b))
    return common / (area_a[:, None] + area_b[None] - common)


def kept_by_nms(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> list:
    overlaps, kept = iou(boxes, boxes), []
    for i in scores.argsort(descending=True).tolist():
        if all(overlaps[i, j] <= threshold for j in kept):
            kept.append(i)
    return kept


def bilinear(image: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Read an image (1, C, H, W) at pixels (x, y), 0 outside: (1, C, *x.shape)."""
    height, width = image.shape[-2:]
    grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], dim=-1)
    flat = grid.reshape(1, 1, -1, 2)
    read = F.grid_sample(image, flat, align_corners=True, padding_mode='zeros')
    return read.reshape(1, image.shape[1], *x.shape)


def plain_roi_align(image: torch.Tensor, boxes: torch.Tensor, out: int, samples: int):
    """The mean of samples² bilinear reads in each of out² cells of each box."""
    step = (torch.arange(out * samples) + 0.5).to(image) / (out * samples)
    regions = []
    for x1, y1, x2, y2 in (boxes - 0.5).unbind(0):
        y, x = torch.meshgrid(
            y1 + step * (y2 - y1), x1 + step * (x2 - x1), indexing='ij'
        )
        regions.append(F.avg_pool2d(bilinear(image, x, y), samples))
    return torch.cat(regions)


def plain_deform_conv(image, offset, weight, mask=None):
    """A 3x3 convolution whose taps read where the offsets (y, x) say; stride 1."""
    height, width = image.shape[-2:]
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    ys, xs = ys.to(image), xs.to(image)
    total = 0
    for tap in range(9):
        y = ys + tap // 3 - 1 + offset[0, 2 * tap]
        x = xs + tap % 3 - 1 + offset[0, 2 * tap + 1]
        read = bilinear(image, x, y)
        if mask is not None:
            read = read * mask[:, tap : tap + 1]
        total = total + torch.einsum(
            'nchw,oc->nohw', read, weight[..., tap // 3, tap % 3]
        )
    return total


def plain_focal_loss(logits, target, gamma=2.0, alpha=0.25):
    wanted = F.one_hot(target, logits.shape[1]).to(logits)
    p = logits.sigmoid()
    wrong = wanted * (1 - p) + (1 - wanted) * p
    weight = (alpha * wanted + (1 - alpha) * (1 - wanted)) * wrong**gamma
    return weight * F.binary_cross_entropy_with_logits(logits, wanted, reduction='none')


class Differs(Exception):
    pass


def same(name: str, ours, truth, *inputs: torch.Tensor) -> None:
    """Compare values, and gradients where inputs are named, of a weighted sum."""
    pairs = [(ours, truth)]
    if inputs:
        weight = torch.rand_like(truth)
        # The truth is compared with more than one operator, so its graph is kept.
        gradients = (
            torch.autograd.grad((out * weight).sum(), inputs, retain_graph=True)
            for out in (ours, truth)
        )
        pairs += zip(*gradients, strict=True)
    for ours, truth in pairs:
        if ours.shape != truth.shape or not torch.allclose(ours, truth, 1e-3, 1e-4):
            raise Differs(f'{name} differs from plain torch')


def leaf(*shape: int, device: str) -> torch.Tensor:
    return torch.randn(*shape, device=device, requires_grad=True)


def check(ops, device: str) -> list[str]:
    """Compare the operators on a device; the names of those that were.

    Raises:
        Differs: Where one does not do what its definition says.
    """
    torch.manual_seed(0)
    boxes, others = boxes_of(60), boxes_of(40)
    scores = torch.rand(60)
    kept = kept_by_nms(boxes, scores, 0.3)
    truth = torch.tensor(kept)
    gpu_boxes, gpu_scores = boxes.to(device), scores.to(device)
    same('nms', ops.nms(gpu_boxes, gpu_scores, 0.3)[1].cpu().float(), truth.float())
    same(
        'bbox_overlaps',
        ops.bbox_overlaps(gpu_boxes, others.to(device)).cpu(),
        iou(boxes, others),
    )

    # Boxes (x, y, w, h, angle) at angle 0 are ordinary boxes.
    def rotated(boxes):
        centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        return torch.cat([centre, size, torch.zeros(len(boxes), 1)], 1).to(device)

    same(
        'box_iou_rotated',
        ops.box_iou_rotated(rotated(boxes), rotated(others)).cpu(),
        iou(boxes, others),
    )
    found = ops.nms_rotated(rotated(boxes), gpu_scores, 0.3)[1].cpu()
    same('nms_rotated', found.float(), truth.float())

    image = leaf(1, 3, SIZE, SIZE, device=device)
    regions = torch.cat([torch.zeros(60, 1), boxes], 1).to(device)
    truth = plain_roi_align(image, gpu_boxes, 4, 2)
    ours = ops.roi_align(image, regions, (4, 4), 1.0, 2, 'avg', True)
    same('roi_align', ours, truth, image)
    turned = torch.cat([torch.zeros(60, 1, device=device), rotated(boxes)], 1)
    ours = ops.roi_align_rotated(image, turned, (4, 4), 1.0, 2, True, False)
    same('roi_align_rotated', ours, truth, image)

    offset, weight = (
        leaf(1, 18, SIZE, SIZE, device=device),
        leaf(5, 3, 3, 3, device=device),
    )
    mask = torch.rand(1, 9, SIZE, SIZE, device=device, requires_grad=True)
    ours = ops.deform_conv2d(image, offset, weight, 1, 1)
    truth = plain_deform_conv(image, offset, weight)
    same('deform_conv2d', ours, truth, image, offset, weight)
    ours = ops.modulated_deform_conv2d(image, offset, mask, weight, None, 1, 1)
    truth = plain_deform_conv(image, offset, weight, mask)
    same('modulated_deform_conv2d', ours, truth, image, offset, mask, weight)

    done = [
        'nms',
        'bbox_overlaps',
        'box_iou_rotated',
        'nms_rotated',
        'roi_align',
        'roi_align_rotated',
        'deform_conv2d',
        'modulated_deform_conv2d',
    ]
    if device != 'cpu':  # MMCV has no focal loss for the CPU; MMDetection uses torch's
        logits = leaf(50, 7, device=device)
        target = torch.randint(0, 7, (50,), device=device)
        ours = ops.sigmoid_focal_loss(logits, target, 2.0, 0.25, None, 'none')
        same('sigmoid_focal_loss', ours, plain_focal_loss(logits, target), logits)
        done.append('sigmoid_focal_loss')
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--device', help='cpu or cuda; default: what there is')
    args = parser.parse_args()
    try:
        import mmcv
        from mmcv import ops

        for module in pkgutil.iter_modules(ops.__path__):
            importlib.import_module(f'mmcv.ops.{module.name}')
        built = ops.get_compiling_cuda_version()
        devices = [args.device] if args.device else ['cpu']
        if not args.device and built != 'not available' and torch.cuda.is_available():
            devices.append('cuda')
        for device in devices:
            names = check(ops, device)
            print(
                f'mmcv {mmcv.__version__} on {device}: {", ".join(names)}: as in '
                f'plain torch; {len(ops.__all__)} names import'
            )
    except (Differs, ImportError, RuntimeError, AssertionError) as error:
        line = ' '.join(str(error).split()) or type(error).__name__
        print(f'error: {line}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
