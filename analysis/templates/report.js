(function () {
  var paper = { width: 690, height: 820 };
  function figures() { return Array.prototype.slice.call(document.querySelectorAll(".js-plotly-plot")); }
  window.addEventListener("beforeprint", function () {
    document.querySelectorAll("details.more").forEach(function (own) { own.open = true; });
    figures().forEach(function (own) {
      var height = Math.min(own.layout.height, paper.height);
      var box = own.parentNode;
      own.onScreen = { figure: own.layout.height, box: box.style.height };
      box.style.height = height + "px";  // else the caption of a tall figure goes to the next page
      Plotly.relayout(own, { autosize: false, width: paper.width, height: height });
    });
  });
  window.addEventListener("afterprint", function () {
    figures().forEach(function (own) {
      own.parentNode.style.height = own.onScreen.box;
      Plotly.relayout(own, { autosize: true, width: null, height: own.onScreen.figure });
    });
  });
})();
