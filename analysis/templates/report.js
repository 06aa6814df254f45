(function () {
  var paper = { width: 690, height: 820 };
  function figures() { return Array.prototype.slice.call(document.querySelectorAll(".js-plotly-plot")); }
  window.addEventListener("beforeprint", function () {
    document.querySelectorAll("details.more").forEach(function (own) { own.open = true; });
    figures().forEach(function (own) {
      own.heightOnScreen = own.layout.height;
      Plotly.relayout(own, { autosize: false, width: paper.width, height: Math.min(own.layout.height, paper.height) });
    });
  });
  window.addEventListener("afterprint", function () {
    figures().forEach(function (own) {
      Plotly.relayout(own, { autosize: true, width: null, height: own.heightOnScreen });
    });
  });
})();
