for (const plot of document.querySelectorAll(".plot[data-points]")) {
  const points = JSON.parse(plot.dataset.points);
  const labels = plot.dataset.labels.split("|");
  const tip = plot.appendChild(document.createElement("div"));
  const rule = plot.appendChild(document.createElement("div"));
  tip.className = "tip";
  rule.className = "rule";
  const show = (event) => {
    const box = plot.getBoundingClientRect();
    const x = (100 * (event.clientX - box.left)) / box.width;
    const near = points.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
    const values = labels.flatMap((l, i) => (near[i + 2] === null ? [] : [`${l} ${near[i + 2]}`]));
    tip.textContent = [`step ${near[1].toLocaleString("en")}`, ...values].join(" · ");
    rule.style.left = `${near[0]}%`;
    const room = box.width - tip.offsetWidth;
    tip.style.left = `${Math.max(0, Math.min(room, (near[0] / 100) * box.width - tip.offsetWidth / 2))}px`;
    plot.classList.add("shown");
  };
  plot.addEventListener("pointermove", show);
  plot.addEventListener("pointerdown", show);
  plot.addEventListener("pointerleave", () => plot.classList.remove("shown"));
}
