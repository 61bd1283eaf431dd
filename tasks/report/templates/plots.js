"use strict";
// Draws the page's figures, in the colours of its style sheet, light or dark.
const figures = JSON.parse(document.getElementById("figures").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");

function themed(layout) {
  const style = getComputedStyle(document.body);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = (values) => ({
    ...values,
    gridcolor: colour("--grid"),
    linecolor: colour("--line"),
    tickcolor: colour("--line"),
  });
  return {
    ...layout,
    font: { family: style.fontFamily, size: 12, color: colour("--text") },
    hoverlabel: {
      ...layout.hoverlabel,
      bgcolor: colour("--raised"),
      bordercolor: colour("--line"),
      font: { color: colour("--text") },
    },
    modebar: {
      bgcolor: "rgba(0,0,0,0)",
      color: colour("--line"),
      activecolor: colour("--quiet"),
    },
    xaxis: axis(layout.xaxis),
    yaxis: axis(layout.yaxis),
  };
}

function draw() {
  for (const [id, figure] of Object.entries(figures)) {
    Plotly.react(id, figure.data, themed(figure.layout), {
      displaylogo: false,
      responsive: true,
      modeBarButtonsToRemove: ["select2d", "lasso2d"],
      plotlyServerURL: "",
    });
  }
}

draw();
dark.addEventListener("change", draw);
