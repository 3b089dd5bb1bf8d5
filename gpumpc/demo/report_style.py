# ruff: noqa: E501
"""How the report looks: one style sheet, for screens light and dark and for paper."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fdfcfa; --card: #ffffff; --ink: #1c1b19; --soft: #5f5b54; --line: #dcd7ce;
  --right: #1d6b45; --wrong: #a3261b; --online: #2b5d8c; --dealer: #b7791f; --rounds: #6b6760;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #16171a; --card: #1e2024; --ink: #e9e6df; --soft: #a5a19a; --line: #3a3c42;
    --right: #6fd3a0; --wrong: #ff9c8f; --online: #7fb2e5; --dealer: #e0b060; --rounds: #9a968f;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 3rem 1.5rem 4rem; max-width: 74rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", "Noto Sans", "Liberation Sans", sans-serif;
}
h1, h2 { font-family: "Iowan Old Style", "Palatino Linotype", Palatino, "Noto Serif", Georgia, serif; font-weight: 600; }
h1 { font-size: 2.3rem; line-height: 1.15; letter-spacing: -0.01em; margin: 0 0 0.6rem; text-wrap: balance; }
h2 { font-size: 1.45rem; margin: 3.2rem 0 0.8rem; padding-top: 0.9rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 0.2rem; }
p { max-width: 42rem; margin: 0.3rem 0 0.8rem; }
.lead { font-size: 1.12rem; color: var(--soft); }
.soft { color: var(--soft); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: baseline; padding: 0.42rem 1.2rem 0.42rem 0; }
tr > * { border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
th, td.n { overflow-wrap: normal; }
thead th { font-weight: 600; font-size: 0.85rem; color: var(--soft); }
td.n, th.n { text-align: right; white-space: nowrap; }
.headline { width: 100%; max-width: 46rem; margin-top: 1.6rem; }
.headline th { font-weight: 400; color: var(--soft); width: 55%; }
.headline td { font-weight: 600; font-size: 1.05rem; }
.wide { overflow-x: auto; }
.small { font-size: 0.88rem; }
code { font: 0.86em ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; overflow-wrap: anywhere; }

ul, ol { padding: 0; margin: 0; list-style: none; }
.queries { display: grid; gap: 1rem; margin-top: 1.2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(34rem, 100%), 1fr)); }
.query {
  display: grid; grid-template-columns: 7rem minmax(0, 1fr); gap: 0.9rem; padding: 0.9rem 1rem; break-inside: avoid;
  background: var(--card); border: 1px solid var(--line); border-radius: 6px;
}
figure { margin: 0; min-width: 0; }
figcaption { font-size: 0.78rem; line-height: 1.35; margin-top: 0.3rem; overflow-wrap: anywhere; }
.found figcaption { font-size: 0.7rem; }
img { display: block; width: 100%; aspect-ratio: 1; object-fit: cover; border-radius: 3px; background: #000; }
.asked img { width: 7rem; }
.said { font-size: 0.85rem; line-height: 1.4; margin: -0.15rem 0 0.75rem; }
.said strong { font-size: 0.95rem; margin-right: 0.5rem; }
.said span { margin-right: 0.5rem; }
.said > span { white-space: nowrap; }
.found { display: grid; grid-template-columns: repeat(5, minmax(0, 1fr)); gap: 0.6rem; align-self: start; }
.found .frame { position: relative; padding: 3px; border-radius: 5px; }
.found .right .frame { border: 2px solid var(--right); }
.found .wrong .frame { border: 2px dashed var(--wrong); }
.badge {
  position: absolute; right: -6px; top: -8px; width: 1.25rem; height: 1.25rem; border-radius: 50%; text-align: center;
  font-size: 0.78rem; line-height: 1.25rem; font-weight: 700; color: var(--card);
}
.right .badge { background: var(--right); }
.wrong .badge { background: var(--wrong); border-radius: 2px; }
.word-right { color: var(--right); font-weight: 600; white-space: nowrap; }
.word-wrong { color: var(--wrong); font-weight: 600; white-space: nowrap; text-decoration: underline dotted; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }

svg.plot { display: block; width: 100%; height: auto; margin: 0.8rem 0 1.2rem; font: 12px system-ui, sans-serif; }
svg.plot text { fill: var(--soft); }
svg.plot .rank { fill: var(--ink); font-weight: 600; }
svg.plot .axis { stroke: var(--line); }
svg.plot .online { fill: var(--online); }
svg.plot .dealer { fill: var(--dealer); }
svg.plot .rounds { fill: var(--rounds); }

@media (max-width: 40rem) {
  .query { grid-template-columns: 1fr; }
  body { padding: 1.5rem 1rem; }
}
@media print {
  :root {
    color-scheme: light; --paper: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #bbb;
    --right: #1d6b45; --wrong: #a3261b; --online: #2b5d8c; --dealer: #b7791f; --rounds: #6b6760;
  }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  html { font-size: 9pt; }
  body { padding: 0; max-width: none; }
  h2, h3, section > p { break-after: avoid; }
  tr, svg.plot { break-inside: avoid; }
  .wide { overflow: visible; }
  .queries { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0.6rem; }
  .query { padding: 0.6rem 0.7rem; grid-template-columns: 5.5rem minmax(0, 1fr); }
  .asked img { width: 5.5rem; }
  .found { gap: 0.4rem; }
  .found figcaption { font-size: 0.62rem; }
}
@page { margin: 16mm 14mm; }
"""
