"""Renders a table of panels as the JSON of a Grafana dashboard."""

import json
from typing import Any

from grafana_foundation_sdk.builders import common, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards.panels import Dashboard, Panel, Query, Variable

SOURCE = "${datasource}"
"""The data source that the user chooses at the top of a dashboard."""
HEIGHT, WIDTH = 8, 8
REFRESH = "30s"


def render(board: Dashboard) -> str:
    """Return the JSON of a dashboard, which is the same for the same table."""
    built = (
        builders.Dashboard(board.title)
        .uid(f"finetune-{board.name}")
        .description(board.description)
        .tags(["finetune"])
        .readonly()
        .time(board.since, "now")
        .refresh(REFRESH)
        .with_variable(
            builders.DatasourceVariable("datasource").label("Data source").type("prometheus")
        )
    )
    for variable in board.variables:
        built = built.with_variable(_variable(variable))
    for title, panels in board.rows:
        built = built.with_row(builders.Row(title))
        for panel in panels:
            built = built.with_panel(_panel(panel))
    return json.dumps(built.build(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def _variable(variable: Variable) -> builders.QueryVariable:
    built = (
        builders.QueryVariable(variable.name)
        .label(variable.label)
        .datasource(_source())
        .query({"query": variable.query, "refId": variable.name})
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )
    return built.multi(True).include_all(True).all_value(".*") if variable.several else built


def _panel(panel: Panel) -> Any:
    built: Any
    if panel.kind == "stat":
        built = stat.Panel().color_mode(common_models.BigValueColorMode.NONE)
    elif panel.kind == "table":
        built = table.Panel()
    else:
        built = timeseries.Panel().fill_opacity(20 if panel.stacked else 0).line_width(1)
        if panel.stacked:
            mode = common_models.StackingMode.NORMAL
            built = built.stacking(common.StackingConfig().mode(mode))
        if panel.logarithmic:
            scale = common.ScaleDistributionConfig()
            scale = scale.type(common_models.ScaleDistribution.LOG).log(10)
            built = built.scale_distribution(scale)
    built = (
        built.title(panel.title)
        .description(panel.description)
        .unit(panel.unit)
        .datasource(_source())
        .height(HEIGHT)
        .span(WIDTH)
    )
    for number, query in enumerate(panel.queries):
        built = built.with_target(_target(panel, query, chr(ord("A") + number)))
    return built


def _target(panel: Panel, query: Query, name: str) -> prometheus.Dataquery:
    target = prometheus.Dataquery().ref_id(name).expr(query.text).datasource(_source())
    if query.legend:
        target = target.legend_format(query.legend)
    if panel.kind == "table":
        target = target.format(PromQueryFormat.TABLE)
    return target.instant() if query.instant else target.range()


def _source() -> models.DataSourceRef:
    return models.DataSourceRef(type_val="prometheus", uid=SOURCE)
