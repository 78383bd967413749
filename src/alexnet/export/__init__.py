"""Networks handed on to other programs: ONNX, torch.export, torchvision's names, a folder for the Hugging Face Hub."""
