"""What a caller names in a request, checked by the rules of the records before anything is sent."""

import re

import msgspec

from gpumpc.arguments import shown, texts
from gpumpc.errors import BadShape, BadValue
from gpumpc.messages.codec import ClassName, IndexName

_ITEM = re.compile("[0-9a-f]{32}")


def item_ids(items: object, least: int = 0) -> list[str]:
    """Item ids, at least so many. Raises BadValue, BadShape."""
    names = texts("items", items)
    for place, name in enumerate(names):
        if not _ITEM.fullmatch(name):
            why = "an item is named by its id of 32 hex digits, as `share` returned it"
            hint = "pass ids that `share` or `list_inputs` returned"
            raise BadValue(f"items[{place}]={shown(name)} is no item id", why, hint)
    if len(names) < least:
        raise BadShape("no item is named", "there is nothing to compute", "name at least one")
    return names


def index_name(name: object) -> str:
    """The name of an index. Raises BadValue."""
    try:
        return msgspec.convert(name, IndexName)
    except msgspec.ValidationError as error:
        why = "it has 1 to 40 of a-z, 0-9, - and _, and begins with a letter or digit"
        hint = "name the index for example 'archive'"
        raise BadValue(f"an index cannot have the name {shown(name)}", why, hint) from error


def class_names(classes: object) -> tuple[str, ...]:
    """Names of classes, each once. Raises BadValue."""
    names = texts("classes", classes)
    try:
        msgspec.convert(names, list[ClassName])
    except msgspec.ValidationError as error:
        why, hint = "a name has 1 to 80 characters", "name each class"
        raise BadValue("the classes have a name that cannot be used", why, hint) from error
    if twice := next((name for name in names if names.count(name) > 1), None):
        why, hint = "an answer could not say which of them is meant", "name each class once"
        raise BadValue(f"two classes have the name {shown(twice)}", why, hint)
    return tuple(names)
