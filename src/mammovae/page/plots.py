"""The figures of every stage under one roof: charts of numbers, pictures of images, and how to keep them."""

from mammovae.page.charts import auroc_forest, loss_curve, roc, score_points
from mammovae.page.pictures import case_panel, contact_sheet, image_grid, map_legend, save_overlay
from mammovae.page.style import data_uri, save, to_png, to_svg

__all__ = [
    "auroc_forest",
    "case_panel",
    "contact_sheet",
    "data_uri",
    "image_grid",
    "loss_curve",
    "map_legend",
    "roc",
    "save",
    "save_overlay",
    "score_points",
    "to_png",
    "to_svg",
]
