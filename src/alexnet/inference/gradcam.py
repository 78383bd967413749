"""Where in an image a network looks for a class: Grad-CAM (Selvaraju et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from alexnet.compute import Compute
from alexnet.errors import UsageError
from alexnet.models.network import AlexNet
from alexnet.models.summary import trace


def last_maps(model: AlexNet) -> str:
    """The layer that Grad-CAM looks at: the activation behind the last layer with weights that answers maps, as relu5
    of the paper's network. Raises UsageError for a network without such a layer."""
    layers = trace(model.variant)
    weighted = [n for n, layer in enumerate(layers) if layer.kind in ("conv", "local")]
    if not weighted:
        raise UsageError("this network has no layer of maps: Grad-CAM needs a convolution.")
    behind = layers[weighted[-1] :]
    maps = [layer for layer in behind if layer.kind == "activation" and len(layer.out_shape) == 3]
    return (maps or behind)[0].name


def grad_cam(model: AlexNet, images: Tensor, labels: Tensor, compute: Compute, layer: str | None = None) -> Tensor:
    """How much each place of normalised images [N, C, H, W] speaks for the classes `labels` [N]: float32 [N, H, W] from
    0 to 1, where 1 is each image's strongest place; all 0 where nothing speaks for the class.

    The maps of a layer (without a name `last_maps`) are added up, each weighted by the mean over its places of the
    gradient that the class's logit has there; what is negative is cut off (equations 1 and 2), and the sum is enlarged
    to the image bilinearly. The network is computed in evaluation mode and stays as it is. Raises UsageError for a
    layer that answers no maps.
    """
    layer = layer or last_maps(model)
    # A caller's modes: without gradients there is nothing to weigh the maps by.
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(compute.device.type, enabled=False):
        replica = compute.replica(model, in_place=False)
        modules = list(replica.named_children())
        depth = 1 + [name for name, _ in modules].index(layer)
        x = compute.fit(images.detach().clone())
        with torch.no_grad():
            for _, module in modules[:depth]:
                x = module(x)
        if x.dim() != 4:
            raise UsageError(f"{layer} answers {x.dim() - 1} axes and no maps: Grad-CAM needs a layer before fc6.")
        maps = x.detach().requires_grad_()
        logits = maps
        for _, module in modules[depth:]:
            logits = module(logits)
        chosen = logits.gather(1, labels.to(logits.device)[:, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, maps)
    weights = gradient.float().mean(dim=(2, 3), keepdim=True)
    heat = (weights * maps.detach().float()).sum(dim=1, keepdim=True).relu()
    heat = F.interpolate(heat, images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    peaks = heat.amax(dim=(1, 2), keepdim=True)
    return heat / torch.where(peaks > 0, peaks, torch.ones_like(peaks))
