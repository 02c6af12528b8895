"""The style of a page: light and dark, on a phone and on a wide screen, and on paper."""

STYLE = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#1b1f24;--muted:#59616c;--line:#dde1e7;--soft:#eef1f5;
--model:#2b5fd9;--good:#17713f;--bad:#b3342a;--c1:#c9720a;--c2:#12897a;--c3:#8a4fd3;--c4:#c13c6e;--c5:#8b95a3}
@media screen and (prefers-color-scheme:dark){:root{--page:#121418;--card:#1a1d23;--ink:#e9ebef;--muted:#a7afbb;
--line:#333944;--soft:#242932;--model:#7da5ff;--good:#5fd08f;--bad:#ff8f83;--c1:#f0a84e;--c2:#4fcdbb;--c3:#bf97f5;
--c4:#f487ae;--c5:#7f8a99}}
*{box-sizing:border-box}
html{scroll-behavior:smooth;scroll-padding-top:3.5rem;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;overflow-wrap:anywhere}
main,header,footer,nav ul{max-width:72rem;margin:0 auto;padding:0 1.25rem}
header{padding-top:2.5rem}
.run{margin:0;color:var(--muted);font-weight:600;letter-spacing:.02em}
h1{margin:.4rem 0 .8rem;font-size:clamp(1.6rem,1rem + 2.6vw,2.6rem);line-height:1.18;letter-spacing:-.015em;
text-wrap:balance;max-width:24em}
h1 .better{color:var(--good)}h1 .worse{color:var(--bad)}
.lead{font-size:1.08rem;max-width:46rem;margin:.5rem 0}
h2{margin:0 0 .4rem;font-size:1.45rem;letter-spacing:-.01em}
h3{margin:1.6rem 0 .5rem;font-size:1.02rem}
section{padding:2.4rem 0 .4rem}
p{margin:.5rem 0}section>p{color:var(--muted);max-width:46rem}
a{color:var(--model);text-decoration:none}a:hover{text-decoration:underline}
nav{position:sticky;top:0;z-index:2;margin-top:1.6rem;background:var(--page);border-block:1px solid var(--line)}
nav ul{display:flex;gap:1.3rem;list-style:none;overflow-x:auto;scrollbar-width:none}
nav li{flex:none}nav a{display:block;padding:.7rem 0;font-size:.92rem;font-weight:550;color:var(--ink)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.8rem;margin:1.4rem 0 0;padding:0}
.tiles div,.card,figure{background:var(--card);border:1px solid var(--line);border-radius:.8rem}
.tiles div{padding:.8rem 1rem}.tiles dt{color:var(--muted);font-size:.88rem}
.tiles dd{margin:0;font-size:1.65rem;font-weight:650;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.tiles small{display:block;font-size:.84rem;font-weight:400;letter-spacing:0;color:var(--muted)}
.notice{margin:1rem 0 0;padding:.7rem 1rem;border-left:.25rem solid var(--c1);background:var(--soft);max-width:46rem}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(19rem,100%),1fr));gap:1rem;margin:1rem 0}
.charts.even{grid-template-columns:repeat(auto-fit,minmax(min(27rem,100%),1fr))}
.beside{display:grid;grid-template-columns:minmax(0,1fr);gap:1rem;margin:1rem 0;align-items:start}
.beside>div{display:grid;gap:1rem;min-width:0}.beside .scroll,.beside h3{margin:0}
.beside :is(th,td){padding-inline:.55rem}.beside th{white-space:normal;overflow-wrap:normal}
@media (min-width:62rem){.beside{grid-template-columns:minmax(0,4fr) minmax(0,5fr)}
.beside.map{grid-template-columns:minmax(0,3fr) minmax(0,2fr)}}
figure{margin:0;padding:1rem 1rem .6rem;min-width:0}
figcaption{font-weight:600;line-height:1.35}figcaption small{display:block;font-weight:400;color:var(--muted)}
figure svg{display:block;width:100%;height:auto;max-width:29rem;margin:.5rem auto 0;overflow:visible}
figure img{display:block;max-width:100%;height:auto;margin:auto;background:#fff}
figure.large svg{max-width:none}figure.large text{paint-order:stroke;stroke:var(--card);stroke-width:2px}
@media (min-width:62rem){figure.large text{font-size:7px!important}}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;list-style:none;margin:.6rem 0;padding:0;font-size:.88rem}
.legend i{display:inline-block;width:.8em;height:.8em;border-radius:.2em;margin-right:.4em;vertical-align:-.05em}
.scroll{overflow-x:auto;margin:.9rem 0;background:var(--card);border:1px solid var(--line);border-radius:.8rem}
table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{padding:.5rem .85rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
tr:last-child td{border-bottom:0}
th{font-weight:550;color:var(--muted);vertical-align:bottom}
th,td{overflow-wrap:break-word}
td:first-child,th:first-child,.words{text-align:left;white-space:normal;max-width:24rem}
td:first-child,th:first-child{min-width:7.5rem}td.words{min-width:6rem}
table.pairs td:first-child{color:var(--muted)}
tr.model td{background:var(--soft)}
td strong{font-weight:750}
.good{color:var(--good)}.bad{color:var(--bad)}
details{margin:.9rem 0}summary{cursor:pointer;font-weight:550;padding:.35rem 0}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(21rem,100%),1fr));gap:1rem;margin:1rem 0}
.card{padding:1rem 1.1rem;min-width:0}.card h4{margin:0 0 .3rem;font-size:1rem;line-height:1.4}
.card p{margin:.5rem 0 .2rem;font-size:.92rem}
.card ul{margin:.2rem 0 .3rem;padding:0;list-style:none;font-size:.88rem;color:var(--muted)}
.card ul li{display:grid;grid-template-columns:3.7rem 1fr;padding:.12rem 0}.card ul b{font-weight:600;color:var(--ink)}
.slot{padding:0 .45em;border-radius:.35em;background:var(--soft);border:1px dashed var(--c5)}
.answers{list-style:none;margin:.6rem 0;padding:0;font-size:.92rem}
.answers li{display:grid;grid-template-columns:1fr auto;gap:0 .8rem;padding:.15rem 0}
.answers .bar{grid-column:1/-1;height:.3rem;border-radius:.15rem;background:var(--soft);overflow:hidden}
.answers .bar i{display:block;height:100%;background:var(--c5)}.answers .true .bar i{background:var(--good)}
.answers .true span:first-child{color:var(--good)}
button.term{all:unset;cursor:help;text-decoration:underline dotted var(--c5) 1.5px;text-underline-offset:.22em}
button.term:focus-visible{outline:2px solid var(--model);outline-offset:2px}
[popover]{max-width:min(30rem,88vw);padding:1rem 1.2rem;border:1px solid var(--line);border-radius:.8rem;
background:var(--card);color:var(--ink);box-shadow:0 .5rem 2rem #0004}
[popover] b{display:block}
footer{padding-block:2rem 3rem;color:var(--muted);font-size:.9rem}
@media (max-width:40rem){th,td{padding:.45rem .6rem}header{padding-top:1.5rem}section{padding-top:1.8rem}}
@media print{@page{margin:13mm}html{font-size:11px}body{background:#fff;font-size:1rem}nav{display:none}
main,header,footer{max-width:none;padding-inline:0}header{padding-top:0}section{padding-top:1.6rem}
figure,.card,.tiles div,tr,.legend{break-inside:avoid}h2,h3,section>p,thead{break-after:avoid}
.scroll{overflow:visible}th,td{padding:.3rem .5rem}
.beside :is(th,td){white-space:normal;min-width:0;font-size:.84rem}*{print-color-adjust:exact}
.charts,.charts.even,.beside,.beside.map{grid-template-columns:repeat(2,minmax(0,1fr))}
.cards{grid-template-columns:repeat(3,minmax(0,1fr))}figure svg{max-width:24rem}
figure.large text{font-size:8px!important}
button.term{text-decoration:none}
footer{columns:2;padding-bottom:0}
[popover]{display:block;position:static;max-width:none;margin:0;padding:.2rem 0;border:0;box-shadow:none}
[popover] b{display:inline}}
"""
