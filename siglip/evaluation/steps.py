"""How to come by each data set: nothing is downloaded behind anybody's back."""

from siglip.evaluation.facts import datasets

# What to fetch, where from, what to do with it and what to give. Only a tar that is not compressed
# and a zip are read as they are.
_ARCHIVES = {
    "imagenet": "fetch ILSVRC2012_img_val.tar (image-net.org/download-images, with an account) and "
    "give it, or give a folder with val/n01440764/*.JPEG",
    "imagenet_v2": "fetch imagenetv2-matched-frequency.tar.gz (github.com/modestyachts/ImageNetV2),"
    " unpack it and give the folder",
    "imagenet_real": "fetch real.json (github.com/google-research/reassessed-imagenet) and give "
    "labels=real.json with ImageNet's validation pictures, or put it into their folder",
    "imagenet_a": "fetch imagenet-a.tar (github.com/hendrycks/natural-adv-examples) and give it",
    "imagenet_r": "fetch imagenet-r.tar (github.com/hendrycks/imagenet-r) and give it",
    "imagenet_sketch": "fetch ImageNet-Sketch.zip (github.com/HaohanWang/ImageNet-Sketch) and give "
    "it",
    "objectnet": "fetch objectnet-1.0.zip (objectnet.dev), unpack it with the password that stands "
    "there and give the folder",
    "cifar10": "give a folder with test/airplane/*.png and the others",
    "cifar100": "give a folder with test/apple/*.png and the others",
    "pets": "fetch images.tar.gz and annotations.tar.gz (www.robots.ox.ac.uk/~vgg/data/pets), "
    "unpack both into a folder and give it",
    "food101": "fetch food-101.tar.gz (data.vision.ee.ethz.ch/cvl/datasets_extra/food-101), unpack "
    "it and give the folder",
    "flowers102": "fetch 102flowers.tgz, imagelabels.mat and setid.mat "
    "(www.robots.ox.ac.uk/~vgg/data/flowers/102), unpack the first beside the others and give the "
    "folder",
    "caltech101": "fetch caltech-101.zip (doi.org/10.22002/D1.20086), unpack it and what is in it, "
    "and give 101_ObjectCategories, of which all pictures count",
    "dtd": "fetch dtd-r1.0.1.tar.gz (www.robots.ox.ac.uk/~vgg/data/dtd), unpack it and give the "
    "folder",
    "eurosat": "fetch the zip of RGB pictures (github.com/phelber/EuroSAT) and give it",
    "sun397": "fetch SUN397.tar.gz (vision.princeton.edu/projects/2010/SUN), unpack it and give "
    "the folder",
    "country211": "fetch country211.tgz (github.com/openai/CLIP, data/country211.md), unpack it "
    "and give the folder",
    "gtsrb": "fetch GTSRB_Final_Test_Images.zip and GTSRB_Final_Test_GT.zip "
    "(benchmark.ini.rub.de), unpack both into a folder and give it",
    "coco": "fetch val2014.zip (cocodataset.org) and dataset_coco.json "
    "(cs.stanford.edu/people/karpathy/deepimagesent), unpack both into a folder and give it",
    "flickr30k": "fetch the pictures (shannon.cs.illinois.edu/DenotationGraph, on request) and "
    "dataset_flickr30k.json (cs.stanford.edu/people/karpathy/deepimagesent), unpack both into a "
    "folder and give it",
    "xm3600": "fetch captions.zip and images.tgz (google.github.io/crossmodal-3600), unpack both "
    "into a folder and give it",
    "xtd10": "fetch test_image_names.txt and test_1kcaptions_LANGUAGE.txt "
    "(github.com/adobe-research/Cross-lingual-Test-Dataset-XTD10), the COCO pictures that the "
    "first names (cocodataset.org), put all into a folder and give it",
}


def steps(name: str) -> str:
    """What to do to have a data set, in one line."""
    tfds = "coco_captions" if name == "coco" else ""
    if name in datasets.ALL:
        tfds = datasets.get(name).tfds
    prepared = f"; or tfds:{tfds}, after tfds build {tfds} --file_format=array_record"
    return _ARCHIVES[name] + (prepared if tfds else "")
