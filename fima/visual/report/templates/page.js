"use strict";
(() => {
  const root = document.documentElement;
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const panels = tabs.map((tab) => document.getElementById(tab.getAttribute("aria-controls")));
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const contentOf = (script) => JSON.parse(script.textContent);
  root.classList.add("js");

  // Charts: drawn when their tab is first shown, in the colours of the theme.
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const themed = () => ({
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("--ink"), family: getComputedStyle(document.body).fontFamily, size: 12 },
    hoverlabel: { bgcolor: colour("--raised"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
  });
  const axis = () => ({ gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true });
  let printing = false;
  // Of a sheet of paper: the browser lays the page out for it after the charts are drawn.
  const paperWidth = (plot) => Math.min(plot.clientWidth, plot.closest(".grid") ? 318 : 670);
  const layoutOf = (plot) => {
    const { layout } = plot.spec;
    return {
      width: printing ? paperWidth(plot) : null,
      autosize: true,
      height: (plot.closest(".tall") ? 380 : 270) + (plot.room ?? 0),
      margin: { l: 48, r: 12, t: 12, b: 40 },
      legend: { orientation: "h", x: 0, y: layout.annotations ? 1.08 : 1.02, yanchor: "bottom", font: { size: 11 } },
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
      ...themed(),
      ...layout,
      xaxis: { ...axis(), ...layout.xaxis },
      yaxis: { ...axis(), ...layout.yaxis },
    };
  };
  const draw = (plot) => {
    if (plot.spec) return;
    plot.spec = contentOf(plot.nextElementSibling);
    const bars = plot.spec.data.filter((trace) => typeof trace.x?.[0] === "string");
    // Too narrow for words side by side: they are turned, and those of several lines would overlap.
    if (bars.some((trace) => plot.clientWidth < 80 * trace.x.length)) {
      bars.forEach((trace) => { trace.x = trace.x.map((word) => word.replaceAll("<br>", " ")); });
    }
    Plotly.newPlot(plot, plot.spec.data, layoutOf(plot), { responsive: true, displayModeBar: false });
    // A legend of several lines gets room of its own; that of the lines would shrink for it.
    plot.room = Math.max(0, Math.round((plot.querySelector(".legend .bg")?.getBBox().height ?? 0) - 26));
    if (plot.room && !plot.spec.layout.height) Plotly.relayout(plot, layoutOf(plot));
    const map = plot.closest(".embedding");
    if (map) addThumbnails(plot, contentOf(map.querySelector(".map")));
  };
  const plotsOf = (part) => [...part.querySelectorAll(".plot")].filter((plot) => !plot.closest("details:not([open])"));
  const drawAll = (part) => plotsOf(part).forEach((plot) => (plot.spec ? Plotly.Plots.resize(plot) : draw(plot)));
  document.querySelectorAll("details").forEach((part) => part.addEventListener("toggle", () => part.open && drawAll(part)));
  const redraw = () => document.querySelectorAll(".plot").forEach((plot) => plot.spec && Plotly.relayout(plot, layoutOf(plot)));

  // Thumbnails beside the pointer, and under a finger, on the maps of the features.
  const card = document.getElementById("hover-card");
  const addThumbnails = (plot, map) => {
    const sheet = contentOf(document.getElementById(map.sprite));
    const show = ({ points, event }) => {
      const place = points[0].customdata;
      const size = 2 * map.px;
      const image = document.createElement("div");
      image.style.backgroundImage = `url(${sheet})`;
      image.style.backgroundSize = `${map.columns * size}px auto`;
      image.style.backgroundPosition = `-${(place % map.columns) * size}px -${Math.floor(place / map.columns) * size}px`;
      card.replaceChildren(image, document.createTextNode(map.names[place]));
      card.style.display = "block";
      card.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - card.offsetWidth - 8))}px`;
      card.style.top = `${Math.max(4, Math.min(event.clientY + 14, innerHeight - card.offsetHeight - 8))}px`;
    };
    plot.on("plotly_hover", show);
    plot.on("plotly_click", show);
    plot.on("plotly_unhover", () => { card.style.display = "none"; });
  };

  // Videos: made from the page's own data when their tab is first shown.
  const media = contentOf(document.getElementById("media"));
  const addresses = {};
  const address = (name) => {
    if (!addresses[name]) {
      const bytes = Uint8Array.from(atob(media[name]), (letter) => letter.charCodeAt(0));
      addresses[name] = URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));
    }
    return addresses[name];
  };
  const load = (panel) => panel.querySelectorAll("video:not([src])").forEach((video) => { video.src = address(video.dataset.media); });
  document.querySelectorAll(".play").forEach((button) => {
    const videos = [...button.closest(".player, .query-row").querySelectorAll("video")];
    button.addEventListener("click", () => {
      const start = videos.some((video) => video.paused);
      videos.forEach((video) => (start ? video.play() : video.pause()));
    });
    const label = button.getAttribute("aria-label");
    const update = () => {
      const playing = videos.some((video) => !video.paused);
      button.textContent = playing ? "❚❚ pause" : "▶ play";
      if (label) button.setAttribute("aria-label", playing ? label.replace("play", "pause") : label);
    };
    videos.forEach((video) => ["play", "pause"].forEach((name) => video.addEventListener(name, update)));
  });
  document.querySelectorAll(".player").forEach((player) => {
    const [video, slider] = [player.querySelector("video"), player.querySelector("input")];
    video.addEventListener("timeupdate", () => { slider.value = video.currentTime / (video.duration || 1); });
    slider.addEventListener("input", () => { video.pause(); video.currentTime = slider.value * video.duration; });
  });

  // Tabs, by the pattern of the ARIA practices: arrow keys move, Home and End jump.
  const show = (number, focus) => {
    tabs.forEach((tab, other) => {
      tab.setAttribute("aria-selected", String(other === number));
      tab.tabIndex = other === number ? 0 : -1;
      panels[other].classList.toggle("shown", other === number);
      if (other !== number) panels[other].querySelectorAll("video").forEach((video) => video.pause());
    });
    if (focus) tabs[number].focus();
    tabs[number].scrollIntoView({ block: "nearest", inline: "nearest" });
    drawAll(panels[number]);
    load(panels[number]);
  };
  tabs.forEach((tab, number) => {
    tab.addEventListener("click", () => { show(number, false); history.replaceState(null, "", `#${tab.textContent}`); });
    tab.addEventListener("keydown", (event) => {
      const steps = { ArrowRight: number + 1, ArrowLeft: number - 1, Home: 0, End: tabs.length - 1 };
      if (!(event.key in steps)) return;
      event.preventDefault();
      show((steps[event.key] + tabs.length) % tabs.length, true);
    });
  });

  // Theme: that of the system, unless the reader chooses.
  const button = document.getElementById("theme");
  const choices = ["system", "light", "dark"];
  let choice = "system";
  const applyTheme = () => {
    root.dataset.theme = choice === "system" ? (dark.matches ? "dark" : "light") : choice;
    button.textContent = `Theme: ${choice}`;
    redraw();
  };
  button.addEventListener("click", () => { choice = choices[(choices.indexOf(choice) + 1) % choices.length]; applyTheme(); });
  dark.addEventListener("change", applyTheme);

  // Printing shows every tab and every plot that is folded away, on white.
  let folded = [];
  addEventListener("beforeprint", () => {
    root.dataset.theme = "light";
    printing = true;
    folded = [...document.querySelectorAll("details:not([open])")].filter((part) => part.querySelector(".plot"));
    folded.forEach((part) => { part.open = true; });
    panels.forEach((panel) => { panel.classList.add("shown"); load(panel); plotsOf(panel).forEach(draw); });
    redraw();
  });
  addEventListener("afterprint", () => {
    printing = false;
    applyTheme();
    folded.forEach((part) => { part.open = false; });
    show(tabs.findIndex((tab) => tab.tabIndex === 0), false);
  });

  applyTheme();
  show(Math.max(0, tabs.findIndex((tab) => `#${tab.textContent}` === location.hash)), false);
})();
