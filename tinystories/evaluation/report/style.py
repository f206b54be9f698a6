"""How the page looks, in light and dark."""

COLOURS = 8
_HUES = {
    "light": ("#2a78d6", "#d9541e", "#12865c", "#a06a00", "#5a47c0", "#cc3d3c", "#c0508a", "#3d7a00"),
    "dark": ("#5b9cf0", "#f0803f", "#35b585", "#d9a13a", "#a59bf2", "#f07f7e", "#e585b4", "#86c04a"),
}


def _palette(scheme: str) -> str:
    return "".join(f"--k{index}:{hue};" for index, hue in enumerate(_HUES[scheme]))


STYLE = (
    ":root{color-scheme:light dark;--page:#fcfcfa;--card:#ffffff;--ink:#1b1c1e;--soft:#5f6368;--rule:#e2e2dd;"
    f"--tint:#f2f2ed;{_palette('light')}}}"
    "@media (prefers-color-scheme:dark){:root{--page:#131416;--card:#1b1d20;--ink:#ebebe8;--soft:#a3a7ad;"
    f"--rule:#33363b;--tint:#222529;{_palette('dark')}}}}}"
    """
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);-webkit-text-size-adjust:100%;
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1120px;margin:0 auto;padding:40px 24px 80px}
header p,section>p{max-width:46em;color:var(--soft)}
header strong{color:var(--ink);font-weight:600}
.eyebrow{margin:0;text-transform:uppercase;letter-spacing:.08em;font-size:13px}
h1{margin:.1em 0 .2em;font-size:34px;line-height:1.2;overflow-wrap:anywhere}
h2{margin:56px 0 0;font-size:22px}
h3{margin:24px 0 4px;font-size:16px}
section>p{margin:6px 0 18px}
small{color:var(--soft);font-size:.85em;font-weight:400}
code{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
.scroll{overflow-x:auto;border:1px solid var(--rule);border-radius:10px;background:var(--card)}
table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}
th,td{padding:9px 14px;text-align:right;border-top:1px solid var(--rule);vertical-align:top}
thead th{border-top:0;color:var(--soft);font-weight:500;font-size:13px;vertical-align:bottom;line-height:1.3}
th:first-child{text-align:left;font-weight:600;position:sticky;left:0;background:var(--card);min-width:12em}
td small{display:block;white-space:nowrap}
td{white-space:nowrap}
td code{white-space:normal}
.prose td{white-space:normal;min-width:14em;text-align:left;font-size:13px}
.yardstick th:first-child,.yardstick td{background:var(--tint);color:var(--soft);font-weight:400}
details{margin-top:16px}
summary{cursor:pointer;font-weight:600;padding:4px 0}
details .scroll{margin-top:8px}
.name{display:inline-flex;align-items:baseline}
.swatch{display:inline-block;flex:none;width:10px;height:10px;border-radius:50%;margin-right:8px}
.plot{display:grid;grid-template-columns:fit-content(45%) 1fr max-content;align-items:center;column-gap:14px;
font-size:14px}
.row{display:contents}
.row .label{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.row .value{font-variant-numeric:tabular-nums;text-align:right;white-space:nowrap}
.row.group{display:block;grid-column:1/-1;font-weight:600;padding-top:8px}
.track{width:100%;height:26px;display:block;overflow:visible}
.axis .track{height:20px}
svg text{fill:var(--soft);font-size:12px}
.grid{stroke:var(--rule);stroke-width:1}
.reference{stroke:var(--ink);stroke-width:2;opacity:.75}
.whisker{stroke-width:6;stroke-linecap:round;opacity:.3}
.path{stroke-width:2}
.dot{stroke:var(--card);stroke-width:1.5}
section>.plot{padding:14px 18px 8px;border:1px solid var(--rule);border-radius:10px;background:var(--card)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr));gap:16px}
.card,.curve{margin:0;padding:14px 18px 8px;border:1px solid var(--rule);border-radius:10px;background:var(--card)}
.card h3{margin:0}
.card p{margin:2px 0 6px;color:var(--soft);font-size:14px;line-height:1.45}
.key{font-size:13px!important}
.key .line{display:inline-block;width:2px;height:12px;margin-right:7px;background:var(--ink);opacity:.75;
vertical-align:-1px}
.key .name{margin-right:14px}
.curves{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,320px),1fr));gap:16px}
.curve figcaption{font-weight:600;font-size:14px}
.curve svg{width:100%;height:190px;display:block;overflow:visible}
.small{grid-template-columns:repeat(auto-fill,minmax(min(100%,240px),1fr))}.small svg{height:140px}
.samples{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr));gap:16px;align-items:start}
blockquote{margin:0;padding:14px 18px;border:1px solid var(--rule);border-radius:10px;background:var(--card)}
blockquote p{margin:0;white-space:pre-line;overflow-wrap:anywhere;
font:15px/1.6 Charter,"Iowan Old Style",Georgia,serif}
.cut{color:var(--soft);font:13px system-ui,sans-serif;white-space:nowrap}
.cut::before{content:"… "}
ul{padding-left:1.2em}
@media (max-width:640px){main{padding:24px 16px 60px}h1{font-size:27px}h2{margin-top:44px}
.plot{display:block}.row{display:grid;grid-template-columns:1fr auto;padding-top:4px}
.row .track{grid-column:1/-1;grid-row:2;height:20px}.axis{padding-top:0}.axis .label,.axis .value{display:none}
.axis .track{grid-row:1}.curve svg{height:150px}.small{grid-template-columns:1fr 1fr}
.small .curve{padding:10px 12px 4px}
.small svg{height:110px}th,td{padding:8px 10px}th:first-child{min-width:7em}}
"""
    + "".join(
        f".dot.k{i}{{fill:var(--k{i})}}.whisker.k{i},.path.k{i}{{stroke:var(--k{i})}}.b{i}{{background:var(--k{i})}}"
        for i in range(COLOURS)
    )
)
