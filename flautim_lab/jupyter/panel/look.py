"""How the panel looks: the page's own colours and fonts, so that light and dark pages both do."""

STYLE = """<style>
.lab-panel{max-width:1180px;width:100%;box-sizing:border-box}
.lab-panel .lab-row{display:flex;flex-flow:row wrap;gap:8px;align-items:center;overflow:visible}
.lab-panel .lab-fields{align-items:flex-start}
.lab-panel .lab-title{margin:6px 0 2px;font-size:17px}
.lab-panel .jupyter-widget-Collapse-header{color:var(--jp-ui-font-color1,#1f2328)}
.lab-panel .lab-faint{opacity:.75;font-weight:400}
.lab-panel .widget-html-content{line-height:1.45}
.lab-panel .lab-cards{display:flex;flex-flow:row wrap;gap:12px;overflow:visible;margin:6px 0}
.lab-panel .lab-card{width:265px;padding:12px;border:1px solid var(--jp-border-color1,#bdbdbd);
 border-radius:8px;box-sizing:border-box;overflow:hidden}
.lab-panel .lab-logo{width:44px;height:44px;object-fit:contain;border-radius:6px;display:block;
 float:left;margin-right:10px}
.lab-panel .lab-letter{background:#0b5394;color:#fff;font-size:24px;line-height:44px;
 text-align:center;font-weight:600}
.lab-panel .lab-name{font-weight:600;overflow-wrap:anywhere}
.lab-panel .lab-wrong{color:#1f2328;background:#fff1e5;border-left:3px solid #bc4c00;
 padding:2px 8px;overflow-wrap:anywhere}
.lab-panel .lab-said{padding:6px 10px;border-radius:4px;color:#1f2328;overflow-wrap:anywhere}
.lab-panel .lab-info{background:#ddf4ff;border-left:3px solid #0969da}
.lab-panel .lab-done{background:#dafbe1;border-left:3px solid #1a7f37}
.lab-panel .lab-error{background:#fff1e5;border-left:3px solid #bc4c00}
.lab-panel .lab-tabs{border-bottom:1px solid var(--jp-border-color1,#bdbdbd);margin:4px 0 8px}
.lab-panel .lab-tab{background:none;border-radius:4px 4px 0 0}
.lab-panel .lab-tab-shown{font-weight:700;border-bottom:3px solid #0969da}
.lab-panel button:focus-visible{outline:2px solid #0969da;outline-offset:1px}
.lab-panel .lab-table{border-collapse:collapse;width:100%;margin:4px 0}
.lab-panel .lab-table th{text-align:left;border-bottom:1px solid var(--jp-border-color1,#bdbdbd);
 padding:3px 10px 3px 0}
.lab-panel .lab-table td{padding:3px 10px 3px 0;overflow-wrap:break-word;vertical-align:top;
 font-variant-numeric:tabular-nums}
.lab-panel .lab-table td:last-child{overflow-wrap:anywhere}
.lab-panel .lab-item{border:1px solid var(--jp-border-color2,#ddd);border-radius:6px;
 padding:8px 10px;margin:3px 0;width:100%;box-sizing:border-box}
.lab-panel .lab-item.lab-row>.widget-html,.lab-panel .lab-item .lab-row>.widget-html{flex:1 1 320px}
.lab-panel .lab-code{background:var(--jp-layout-color2,#f3f3f3);padding:8px 12px;overflow-x:auto;
 white-space:pre-wrap;overflow-wrap:anywhere;border-radius:4px;font-size:12px;line-height:1.4;user-select:text}
.lab-panel .lab-code span{display:block}
.lab-panel .lab-new{background:#dafbe1;color:#1f2328}
.lab-panel .lab-gone{background:#ffebe9;color:#1f2328}
.lab-panel .lab-where{opacity:.75}
.lab-panel .lab-log{display:flex;flex-direction:column-reverse;max-height:380px;overflow:auto;
 white-space:pre-wrap;overflow-wrap:anywhere;
 background:var(--jp-layout-color2,#f3f3f3);padding:8px 12px;font-size:12px;line-height:1.35}
.lab-panel .lab-head{justify-content:space-between;border-bottom:2px solid #0b5394;
 padding:2px 0 6px}
.lab-panel .lab-big{font-size:20px;font-weight:600}
.lab-panel .lab-picture img{max-width:100%;height:auto}
.lab-panel .lab-input label{min-width:90px;text-align:left}
.lab-panel a.lab-link{color:#0969da;text-decoration:underline}
[data-jp-theme-light='false'] .lab-panel a.lab-link{color:#58a6ff}
</style>"""
