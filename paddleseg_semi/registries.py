"""The registries PaddleSeg does not have, and what knobs of methods were called in earlier versions."""

from paddleseg.cvlibs.manager import ComponentManager

METHODS = ComponentManager('methods')
STAGES = ComponentManager('stages')
STREAMS = ComponentManager('streams')


def translated(recipe):
    """A recipe in today's words.

    Args:
        recipe (dict): a whole one; its `method` says by `renamed` what it was called before.

    Returns:
        tuple[dict, list[str]]: the recipe, changed where it has to be; and a line for every change.
    """
    section = recipe.get('method')
    known = METHODS.components_dict.get(section.get('type')) if isinstance(section, dict) else None
    section, lines = dict(section or {}), []
    for old, new in getattr(known, 'renamed', {}).items():
        if isinstance(old, str) and old in section:
            section[new] = section.pop(old)
            lines.append(f'method.{old} is called {new} now; it is taken as that.')
        elif isinstance(old, tuple) and section.get(old[0]) == old[1]:
            section[old[0]] = new
            lines.append(f'method.{old[0]}: {old[1]} is called {new} now; it is taken as that.')
    if lines:
        recipe = {**recipe, 'method': section}
    unlabeled = (recipe.get('semi') or {}).get('unlabeled')
    if isinstance(unlabeled, dict) and 'views' in unlabeled:
        unlabeled = {key: value for key, value in unlabeled.items() if key != 'views'}
        recipe = {**recipe, 'semi': {**recipe['semi'], 'unlabeled': unlabeled}}
        lines.append('semi.unlabeled.views is passed over: the method knows how many strong views it looks at.')
    return recipe, lines
