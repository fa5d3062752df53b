# Copyright 2026 aliked_ros maintainers
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""The default layout of the page's views."""

from __future__ import annotations

from typing import Any

import rerun as rr
import rerun.blueprint as rrb

TIMELINE = "time"
CAMERA = "world/camera"
IMAGE, POINTS, TAILS = f"{CAMERA}/image", f"{CAMERA}/tracks/points", f"{CAMERA}/tracks/tails"
TRAJECTORY, MAP = "world/trajectory", "world/map"
STAGES, RATES, COUNTS = "stages", "rates", "counts"
LENGTHS, INLIERS, ABOUT = "lengths", "inliers", "about"
_WINDOW = 30.0  # seconds shown in live plots


def layout(live: bool) -> rrb.Blueprint:
    """The views of the page; live: plots show only the last seconds."""
    ranges = None
    if live:
        start = rr.TimeRangeBoundary.cursor_relative(seconds=-_WINDOW)
        end = rr.TimeRangeBoundary.cursor_relative()
        ranges = rrb.VisibleTimeRange(TIMELINE, start=start, end=end)

    def plot(
        origin: str, name: str, legend: rrb.Corner2D = rrb.Corner2D.LeftTop, **more: Any
    ) -> rrb.TimeSeriesView:
        return rrb.TimeSeriesView(
            origin=origin,
            name=name,
            time_ranges=ranges,
            plot_legend=rrb.PlotLegend(corner=legend),
            **more,
        )

    scene = [f"+ /{TRAJECTORY}/**", f"+ /{MAP}", f"+ /{CAMERA}", f"+ /{IMAGE}"]
    return rrb.Blueprint(
        rrb.Horizontal(
            rrb.Vertical(
                rrb.Spatial2DView(origin=CAMERA, name="Image and tracks"),
                rrb.Spatial3DView(origin="world", contents=scene, name="Map and trajectory"),
                row_shares=[3, 2],
            ),
            rrb.Vertical(
                plot(STAGES, "Stage times, ms"),
                rrb.Horizontal(
                    plot(RATES, "Images a second"),
                    plot(COUNTS, "Features of an image", rrb.Corner2D.LeftBottom),
                ),
                rrb.Horizontal(
                    rrb.BarChartView(
                        origin=LENGTHS, name="Tracks by length, images",
                        plot_legend=rrb.PlotLegend(visible=False),
                    ),
                    plot(
                        INLIERS, "Share of the matches that are inliers",
                        axis_y=rrb.ScalarAxis(range=(0.0, 1.05)),
                    ),
                ),
                rrb.TextDocumentView(origin=ABOUT, name="Front-end"),
                row_shares=[4, 4, 4, 2],
            ),
        ),
        rrb.TimePanel(state="collapsed", timeline=TIMELINE, play_state="following"),
        rrb.BlueprintPanel(state="collapsed"),
        rrb.SelectionPanel(state="collapsed"),
    )  # fmt: skip
