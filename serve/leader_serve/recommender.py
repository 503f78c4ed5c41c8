"""From a checked request to the full answer: route, predict, look for interactions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import ValidationError

from leader_platform.config import ServeConfig
from leader_serve.observer import Observer
from leader_serve.prediction import ModelCard, Query
from leader_serve.problems import InvalidRequestError, ServingError, fields_of, too_large
from leader_serve.router import Ask, Routed, Router
from leader_serve.routing import REASON_TEXTS
from leader_serve.safety import Interaction, InteractionTable, interactions_within
from leader_serve.schemas import (
    BatchItem,
    ErrorDetail,
    FieldProblem,
    InteractionAlert,
    ModelName,
    ModelStatus,
    RecommendationAnswer,
    RecommendationRequest,
    RecommendedMedication,
    ReleaseName,
    RouteAnswer,
    VisitCodes,
    current_medications,
    to_record,
)

_ATC_CLASS_OR_FINER = re.compile(r"ATC:[A-Z]\d{2}[A-Z]([A-Z](\d{2})?)?")


class Recommender:
    """Everything behind the HTTP endpoints, free of HTTP."""

    def __init__(
        self,
        router: Router,
        interactions: InteractionTable,
        config: ServeConfig,
        observer: Observer | None = None,
        release: ReleaseName = "stable",
    ) -> None:
        self._router = router
        self._release = release
        self._interactions = interactions
        self._config = config
        self._observer = observer or Observer()

    async def recommend(self, request: RecommendationRequest) -> RecommendationAnswer:
        """Raises `InvalidRequestError` over the limits and `ServingError` where no model could answer."""
        routed = await self._router.recommend(self._ask(request))
        return self._answer(request, routed)

    async def recommend_all(self, items: Sequence[Any]) -> list[BatchItem]:
        """One item a request, in order; each is checked on its own."""
        if len(items) > self._config.max_batch:
            raise too_large("requests", f"At most {self._config.max_batch} requests go in one batch.")
        checked = [self._check(item) for item in items]
        asked = {i: ask for i, ask in enumerate(checked) if not isinstance(ask, ErrorDetail)}
        outcomes = await self._router.recommend_all([ask for _, ask in asked.values()])
        answered: dict[int, Routed | ServingError] = dict(zip(asked, outcomes, strict=True))
        return [
            BatchItem(error=item) if isinstance(item, ErrorDetail) else self._item(item[0], answered[i])
            for i, item in enumerate(checked)
        ]

    async def models(self) -> list[ModelStatus]:
        cards = {name: await self._router.describe(name) for name in get_args(ModelName)}
        return [_status(name, self._release, card) for name, card in cards.items()]

    async def is_ready(self) -> bool:
        """Whether the student answers. The teacher's absence degrades an answer; the student's prevents it."""
        return await self._router.describe("student") is not None

    def _check(self, item: Any) -> tuple[RecommendationRequest, Ask] | ErrorDetail:
        try:
            request = RecommendationRequest.model_validate(item)
            return request, self._ask(request)
        except ValidationError as error:
            return InvalidRequestError(fields_of(error.errors(include_input=False, include_url=False))).detail
        except InvalidRequestError as error:
            return error.detail

    def _ask(self, request: RecommendationRequest) -> Ask:
        check_limits(request, self._config)
        query = Query(to_record(request), request.threshold, request.top_k, current_medications(request))
        return Ask(request.model, query, None if request.deadline_ms is None else request.deadline_ms / 1000)

    def _item(self, request: RecommendationRequest, outcome: Routed | ServingError) -> BatchItem:
        if isinstance(outcome, ServingError):
            return BatchItem(error=ErrorDetail(code=outcome.code, message=outcome.message))
        return BatchItem(answer=self._answer(request, outcome))

    def _answer(self, request: RecommendationRequest, routed: Routed) -> RecommendationAnswer:
        answer = answer_of(request, routed, self._interactions)
        self._observer.recommended(answer)
        return answer


def answer_of(request: RecommendationRequest, routed: Routed, interactions: InteractionTable) -> RecommendationAnswer:
    """What a caller is told: the prediction, the way it took, and the interactions known of it."""
    route, prediction = routed.route, routed.prediction
    recommended = [code for code, _ in prediction.medications]
    found = interactions_within(recommended, current_medications(request), interactions)
    return RecommendationAnswer(
        model=route.model,
        model_version=prediction.version,
        route=RouteAnswer(reason=route.reason, text=REASON_TEXTS[route.reason]),
        degraded=route.degraded,
        threshold=prediction.threshold,
        confidence=round(prediction.confidence, 6),
        medications=[
            RecommendedMedication(code=code, name=prediction.names[code], probability=probability)
            for code, probability in prediction.medications
        ],
        interactions=[_alert(interaction, prediction.names) for interaction in found],
        unknown_codes=list(prediction.unknown_codes),
        prompt_truncated=prediction.prompt_truncated,
    )


def check_limits(request: RecommendationRequest, config: ServeConfig) -> None:
    """Raises `InvalidRequestError` naming the field that holds too much, or what cannot be checked."""
    if len(request.visits) > config.max_visits:
        problem = FieldProblem(field="visits", message=f"At most {config.max_visits} visits go in one request.")
        raise InvalidRequestError([problem])
    for i, visit in enumerate(request.visits):
        for kind in VisitCodes.model_fields:
            if len(getattr(visit, kind)) > config.max_codes:
                message = f"At most {config.max_codes} codes of one kind go in one visit."
                raise InvalidRequestError([FieldProblem(field=f"visits.{i}.{kind}", message=message)])
    _check_current_medications(request)


def _check_current_medications(request: RecommendationRequest) -> None:
    """Refuse a current medication without an ATC class: no interaction of it can be looked up, and an answer with an
    empty list would say that there are none."""
    last = len(request.visits) - 1
    message = (
        "A current medication is an ATC class or finer (ATC:C09A, ATC:C09AA05); "
        "no other code can be checked for interactions."
    )
    problems = [
        FieldProblem(field=f"visits.{last}.medications.{i}", message=message)
        for i, code in enumerate(request.visits[last].medications)
        if not _ATC_CLASS_OR_FINER.fullmatch(code)
    ]
    if problems:
        raise InvalidRequestError(problems)


def _alert(interaction: Interaction, names: Mapping[str, str]) -> InteractionAlert:
    first, second = interaction.codes
    fact = interaction.fact
    return InteractionAlert(
        codes=interaction.codes,
        names=(names[first], names[second]),
        between=interaction.between,
        substances=list(interaction.substances),
        severity=fact.severity,
        reason=fact.reason,
        source=fact.source,
    )


def _status(model: ModelName, release: ReleaseName, card: ModelCard | None) -> ModelStatus:
    if card is None:
        return ModelStatus(model=model, release=release, available=False)
    return ModelStatus(
        model=model,
        release=release,
        available=True,
        version=card.version,
        threshold=card.threshold,
        num_medications=card.num_medications,
    )
