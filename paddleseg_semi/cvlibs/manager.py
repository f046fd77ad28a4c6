"""The two registries PaddleSeg does not have."""

from paddleseg.cvlibs.manager import ComponentManager

METHODS = ComponentManager('methods')
STAGES = ComponentManager('stages')
