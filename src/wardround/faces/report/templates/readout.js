// Hover read-outs for the curves. Without it, the same words come as native tooltips.
for (const chart of document.querySelectorAll("svg.curves")) {
  const guide = chart.querySelector(".guide");
  const words = document.createElement("p");
  words.className = "readout";
  words.textContent = "Point at a round to read its values.";
  chart.parentElement.after(words);
  chart.addEventListener("pointerover", (event) => {
    const band = event.target.closest(".band");
    if (!band) return;
    guide.setAttribute("x1", band.dataset.x);
    guide.setAttribute("x2", band.dataset.x);
    guide.classList.add("on");
    words.textContent = band.dataset.words;
  });
  chart.addEventListener("pointerleave", () => guide.classList.remove("on"));
  for (const title of chart.querySelectorAll(".band > title")) title.remove();
}
