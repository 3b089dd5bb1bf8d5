"""What each client may do with each plan: what the configuration does not grant is denied."""

import hashlib
import time
from collections.abc import Mapping

import msgspec

from gpumpc.deploy.approvals import approvers
from gpumpc.deploy.config import ServerConfig
from gpumpc.deploy.rights import RIGHTS, Right
from gpumpc.errors import AccessDenied, ConfigError
from gpumpc.nn.graph import Argmax, TopK
from gpumpc.program.head import Policy
from gpumpc.program.plan import PlanRecord

# A policy shows what the ones before it show, and more.
_POLICIES: tuple[Policy, ...] = ("label", "top5", "logits")
_MOST_CLASSES = 5
_SHOWN_CHARACTERS = 200


class Access:
    """The rights of clients by plan.

    Without a table of rights, whoever is in `user_cards` may do everything. With one, nobody may do
    what no table grants. Who is in `owner_cards` alone shares weights, and does nothing else that
    is not granted.

    Args:
        plans: the served plans by plan hash, in the order of the configuration.

    Raises ConfigError for rights or budgets of a plan that is not served, or of two that are.
    """

    def __init__(self, config: ServerConfig, plans: Mapping[str, PlanRecord]) -> None:
        self._config, self._plans = config, plans
        self._users = {card.name for card in config.users}
        self._owners = dict(zip(plans, config.plan_owners, strict=False))
        names = [plan.name for plan in plans.values()]
        for key, tables in (("rights", config.rights), ("budgets", config.budgets)):
            for name in tables:
                if names.count(name) != 1:
                    raise ConfigError(
                        f"the table [{key}.{name}] is not of one plan",
                        f"the served plans are named {', '.join(names)}",
                        "name a served plan, as plan.json does, and give every plan its own name",
                    )

    def check(self, client: str, plan_id: str, right: Right) -> None:
        """Raises AccessDenied unless a client has a right with a plan.

        The right `run` is also had by who may `classify` under the policy of the plan.
        """
        plan = self._plans[plan_id]
        if self._is_granted(client, plan, right):
            return
        owner, place = self._owners.get(plan_id), f"[rights.{plan.name}]"
        by = f", with the consent of its owner {owner.name}" if owner else ""
        policy = policy_of(plan)
        wanted = f"`{right}`" if right != "run" or not policy else f"`run` or `classify`, {policy}"
        where = f"to {wanted} in {place}" if self._config.rights else "to `user_cards`"
        raise AccessDenied(
            f"{client} has no right to {right} with plan '{plan.name}'",
            "what the servers' configurations do not grant is denied",
            f"ask the operators of both servers to add '{client}' {where}{by}",
        )

    def _is_granted(self, client: str, plan: PlanRecord, right: Right) -> bool:
        if not self._config.rights:
            return client in self._users
        rights = self._config.rights.get(plan.name)
        if rights is None:
            return False
        if right != "run":
            return client in getattr(rights, right)
        shown, granted = policy_of(plan), rights.classify.get(client)
        may_classify = shown and granted and _POLICIES.index(shown) <= _POLICIES.index(granted)
        return client in rights.run or bool(may_classify)

    def check_approved(self, plan_id: str) -> None:
        """Raises AccessDenied unless enough approvals of a plan hold at this moment."""
        rules, name = self._config.approvals, self._plans[plan_id].name
        if rules is None:
            return
        found = approvers(rules, plan_id, time.time())
        if len(found) < rules.needed:
            missing = sorted({card.name for card in rules.cards} - found)
            raise AccessDenied(
                f"plan '{name}' is not served: {len(found)} of {rules.needed} approvals hold",
                f"for '{rules.purpose}' none that holds is here of {', '.join(missing)}",
                "have them run `gpumpc approve` for this plan and purpose, and put their files in "
                "the folder `approvals.folder` of both servers",
            )

    def agreed(self) -> dict[str, str]:
        """What must be the same at both servers, by name."""
        fields = {}
        for plan, rights in sorted(self._config.rights.items()):
            for right in RIGHTS:
                text = ", ".join(rights.granted(right)) or "nobody"
                fields[f"who may {right} with plan '{plan}'"] = _short(text)
        for plan, budget in sorted(self._config.budgets.items()):
            text = f"{budget.images} images, {budget.queries} queries"
            fields[f"budget a day of plan '{plan}'"] = text
        if rules := self._config.approvals:
            fields["approvals needed"] = f"{rules.needed} for '{rules.purpose}'"
            keys = sorted(f"{card.name} {card.sign_public}" for card in rules.cards)
            fields["who may approve"] = _short(", ".join(keys))
        if self._config.rights:
            named = {name for rights in self._config.rights.values() for name in rights.names}
            cards = {card.name: card for card in (*self._config.owners, *self._config.users)}
            named_cards = b"".join(msgspec.json.encode(cards[name]) for name in sorted(named))
            fields["cards of who has rights"] = hashlib.sha256(named_cards).hexdigest()
        return fields


def policy_of(plan: PlanRecord) -> Policy | None:
    """What a plan shows of an image's class; None for features and any other result."""
    match plan.graph.output:
        case Argmax():
            return "label"
        case TopK(k=k) if k <= _MOST_CLASSES:
            return "top5"
    return "logits" if plan.classes else None


def _short(text: str) -> str:
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text[:_SHOWN_CHARACTERS]}... {digest}"
