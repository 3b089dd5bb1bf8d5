"""All that a removed user has at one server is deleted, while the server does not run.

Each operator deletes at its own server: a share there is forgotten whatever the other server does.
Until the other one has done the same, its rows of that user are put out of use as the two meet.
"""

import msgspec

from gpumpc.errors import InputError
from gpumpc.retrieval.index_store import decode_index
from gpumpc.server import store_agreement as agreement
from gpumpc.store import Store


def remove_owner(store: Store, owner: str) -> int:
    """Erase an owner's rows, with their keys, and its indexes; how many rows there were.

    It can be interrupted and repeated. Raises InputError if the owner has nothing here.
    """
    if owner not in store.owners():
        what, why = f"nobody named '{owner}' has rows or indexes here", "the name is another one"
        raise InputError(what, why, "see `gpumpc store users`")
    # Else an index whose making was begun would be made as the servers meet.
    for change_id, text in store.changes().items():
        change = msgspec.json.decode(text, type=agreement.Change)
        if isinstance(change, agreement.CreateIndex) and decode_index(change.record).owner == owner:
            store.end_change(change_id)
    n_rows = 0
    for kind in store.kinds():
        n_rows += store.delete_rows(kind, [row.key for row in store.rows(kind, owner=owner)])
    for name, text in store.notes("index/").items():
        if decode_index(text).owner == owner:
            store.remove_note(name)
    return n_rows
