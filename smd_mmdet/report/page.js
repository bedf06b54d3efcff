'use strict';
// Draws the page from the JSON in #data. Text from the run goes into the page as
// textContent only, and to plotly through plotText.
(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const find = (id) => document.getElementById(id);
  // open: whether a row of the checks was opened or closed by hand, by its key.
  const state = { layer: data.first, range: null, open: new Map(), started: false };

  // ---------------------------------------------------------------- data

  // The points of a line, in arrays that plotly decodes by itself.
  function line(layer, name) {
    const places = layer.lines[name];
    return places ? { x: data.arrays[places[0]], y: data.arrays[places[1]] } : null;
  }

  // A run that has just begun has no lines yet.
  const mode = (layer) => (layer.windows < 3 ? 'markers' : 'lines');

  // ---------------------------------------------------------------- looks

  const LIGHT = ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9', '#E69F00'];
  const DARK = ['#5db7ef', '#ff9a4d', '#3fcf9f', '#e6a0c8', '#a8dcff', '#f5c04a'];
  const dark = window.matchMedia('(prefers-color-scheme: dark)');
  const narrow = () => window.innerWidth < 640;
  const css = (name) => getComputedStyle(document.documentElement)
    .getPropertyValue(name).trim();
  const colour = (i) => (i < 0 ? css('--faint') : (dark.matches ? DARK : LIGHT)[i]);
  // Blue, neutral, red: told apart also without colour vision.
  const SCALE = () => {
    const middle = dark.matches ? '#26292f' : '#f7f7f7';
    return [[0, '#08458c'], [0.25, '#5a9fd0'], [0.5, middle],
      [0.75, '#e8845f'], [1, '#8c0a20']];
  };
  const plotText = (text) => String(text)
    .replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;');

  function number(value, digits = 3) {
    if (value === null || value === undefined) return '–';
    // Lines do not break after a true minus.
    return digitsOf(value, digits).replaceAll('-', '−');
  }

  function digitsOf(value, digits) {
    if (Math.abs(value) >= 1e4) return Math.round(value).toLocaleString('en');
    if (value !== 0 && Math.abs(value) < 1e-3) return value.toExponential(digits - 1);
    return String(Number(value.toPrecision(digits)));
  }

  function xAxis(extra = {}) {
    return {
      range: state.range || [0, data.last], gridcolor: css('--line'),
      zeroline: false, linecolor: css('--faint'), ticks: 'outside',
      tickcolor: css('--faint'), nticks: narrow() ? 5 : 12, ...extra,
    };
  }

  function yAxis(title, extra = {}) {
    return {
      title: { text: title, standoff: 6, font: { size: 12 } }, gridcolor: css('--line'),
      zeroline: false, linecolor: css('--faint'), exponentformat: 'power',
      dtick: extra.type === 'log' ? 1 : undefined, ...extra,
    };
  }

  function layout(extra) {
    return {
      paper_bgcolor: css('--paper'), plot_bgcolor: css('--paper'),
      font: { color: css('--ink'), size: 12, family: 'system-ui, sans-serif' },
      margin: { l: narrow() ? 54 : 70, r: 10, t: 24, b: 42 }, showlegend: false,
      hovermode: 'closest', hoverlabel: { align: 'left' },
      shapes: stageShapes(), dragmode: narrow() ? false : 'zoom', ...extra,
    };
  }

  function stageShapes() {
    const whole = { yref: 'paper', y0: 0, y1: 1, layer: 'below' };
    return data.stages.map((stage) => (stage.stage < 0
      ? { ...whole, type: 'rect', x0: 0, x1: stage.last, fillcolor: css('--shade'), line: { width: 0 } }
      : { ...whole, type: 'line', x0: stage.first, x1: stage.first,
        line: { color: css('--faint'), width: 1, dash: 'dot' } }))
      .filter((shape) => shape.x1 > 1);
  }

  function stageName(stage) {
    return stage.stage < 0 ? 'warm-up' : `stage ${stage.stage}`;
  }

  // As in the figures on paper: the longest name for which there is room.
  function stageNames(id) {
    const [low, high] = state.range || [0, data.last];
    const { l, r } = graphs[id].margin();
    const pixel = (high - low) / Math.max(find(id).clientWidth - l - r, 1);
    const notes = [];
    let taken = low;
    for (const stage of data.stages) {
      const begin = Math.max(stage.stage < 0 ? 0 : stage.first, taken);
      // The name of the warm-up may reach into the next stage.
      const end = stage.stage < 0 ? high : Math.min(stage.last, high);
      const width = (name) => (6.2 * name.length + 14) * pixel;
      const text = stage.last < low ? undefined
        : stage.names.find((name) => begin + width(name) <= end);
      if (text === undefined) continue;
      taken = begin + width(text);
      notes.push({ x: begin, y: 1, xanchor: 'left', yanchor: 'bottom', yref: 'paper',
        showarrow: false, font: { size: 11, color: css('--faint') }, text: plotText(text) });
    }
    return notes;
  }

  // On a phone the buttons would lie over the legend; pages there zoom by the fields.
  const config = () => ({
    // Nothing of a run leaves the page.
    showSendToCloud: false, plotlyServerURL: '',
    responsive: true, displaylogo: false, displayModeBar: narrow() ? false : 'hover',
    modeBarButtonsToRemove: ['select2d', 'lasso2d', 'autoScale2d'],
  });

  // ---------------------------------------------------------------- figures

  // What draws each figure, its margins, and whether stages are named above it.
  const graphs = {
    heat: { draw: drawHeat, margin: heatMargin, named: true },
    all: { draw: drawAll, margin: () => ({ ...sides(), t: 60, b: 42 }), named: true },
    one: { draw: drawOne, margin: () => ({ ...sides(), t: 24, b: 42 }), named: false },
  };
  const sides = () => ({ l: narrow() ? 54 : 70, r: 10 });

  // Margins that plotly finds by itself cost it a second drawing.
  function heatMargin() {
    const longest = Math.max(...data.layers.map((layer) => heatName(layer).length));
    // Above the rows is room for plotly's buttons.
    return narrow() ? { l: 10, r: 10, t: 24, b: 100 }
      : { l: 12 + 5.8 * longest, r: 70, t: 44, b: 42 };
  }

  // The end of a name tells more than its beginning.
  const heatName = ({ short }) => (short.length > 48 ? `…${short.slice(-47)}` : short);

  // What a picture is of, for those who do not see it.
  function describe(id, text) {
    find(id).setAttribute('aria-label', text);
  }

  function ends(quantity) {
    if (!quantity.ends.length) return '';
    const [low, middle, high] = quantity.ends.map(([name, v]) => `${number(v)} (${name})`);
    return ` At the end: lowest ${low}, middle ${middle}, highest ${high}.`;
  }

  function drawHeat() {
    const names = data.layers.map((layer) => plotText(heatName(layer)));
    const ticks = [0.1, 0.2, 0.5, 1, 2, 5, 10];
    if (!data.heat) {
      find('heat').textContent = 'No equilibrium is known for this optimizer.';
      return null;
    }
    describe('heat', `Heat map of Δ/Δ*: ${names.length} layers, one row each, over ${number(data.last)} iterations.`
      + ends(data.quantities.find((quantity) => quantity.series === 'ratio')));
    // Few rows are made higher, so that the scale beside them can be read.
    const row = names.length > 80 ? 8 : Math.max(narrow() ? 16 : 13, Math.min(28, 140 / names.length));
    const margin = heatMargin();
    const inner = row * names.length;
    const { edges, rows } = data.heat;
    const trace = {
      type: 'heatmap', x: edges, y: names.map((_, i) => i),
      z: rows.map((row) => row.map((v) => (v === null ? null : Math.log10(v)))),
      text: rows.map((row, i) => row.map((v) => `${names[i]}<br>Δ/Δ* ${number(v)}`)),
      hovertemplate: '%{text}<br>iteration %{x:,.0f}<extra></extra>',
      colorscale: SCALE(), zmin: -1, zmax: 1, hoverongaps: false,
      colorbar: {
        tickvals: ticks.map(Math.log10), ticktext: ticks.map(String), outlinewidth: 0,
        thickness: 12, title: { text: 'Δ/Δ*', side: narrow() ? 'top' : 'right' },
        ...(narrow() ? { orientation: 'h', y: -28 / inner, yanchor: 'top', len: 1 }
          : { len: 0.94, y: 0, yanchor: 'bottom' }),
      },
    };
    const shown = names.map((_, i) => i).filter((i) => i % Math.ceil(names.length / 80) === 0);
    return [[trace], layout({
      height: margin.t + inner + margin.b,
      margin,
      shapes: [...stageShapes().map((s) => ({ ...s, layer: 'above' })).filter((s) => s.type === 'line'),
        { type: 'rect', xref: 'paper', x0: 0, x1: 1, y0: state.layer - 0.5,
          y1: state.layer + 0.5, line: { color: css('--ink'), width: 1.5 } }],
      annotations: stageNames('heat'),
      xaxis: xAxis({ title: { text: narrow() ? '' : 'iteration' }, showgrid: false }),
      yaxis: yAxis('', {
        range: [names.length - 0.5, -0.5], showgrid: false, showticklabels: !narrow(),
        tickmode: 'array', tickvals: shown, ticktext: shown.map((i) => names[i]),
        tickfont: { size: 10 }, ticks: '', fixedrange: true,
      }),
    })];
  }

  function drawAll() {
    const kind = find('scale').value;
    const quantity = data.quantities.find(({ series }) => series === kind);
    describe('all', `${quantity.title}: a line for each of ${data.layers.length} layers over ${number(data.last)} iterations.${ends(quantity)}`);
    const style = (layer, i) => ({
      type: 'scatter', mode: 'lines', name: plotText(layer.short), hoverinfo: 'name+x+y',
      opacity: i === state.layer ? 1 : 0.6,
      line: { color: i === state.layer ? css('--ink') : colour(data.parts[layer.part].colour),
        width: i === state.layer ? 2.4 : 0.9 },
      showlegend: i === state.layer,
    });
    const traces = [];
    data.layers.forEach((layer, i) => {
      const points = line(layer, kind);
      if (points) traces.push({ ...style(layer, i), mode: mode(layer), ...points, meta: i });
    });
    // The chosen layer is drawn over the others.
    traces.sort((a, b) => (a.meta === state.layer) - (b.meta === state.layer));
    traces.push(...references(quantity));
    const legend = data.parts.map((part) => ({
      type: 'scatter', mode: 'lines', x: [null], y: [null], name: plotText(part.name),
      line: { color: colour(part.colour), width: 3 }, showlegend: true,
    }));
    return [[...traces.map((t) => ({ showlegend: false, ...t })), ...legend], layout({
      // The legend of a phone is a column.
      height: narrow() ? 400 + 19 * data.parts.length : 460, annotations: stageNames('all'), showlegend: true,
      legend: { orientation: 'h', y: 1.07, yanchor: 'bottom', x: 0, itemclick: false,
        itemdoubleclick: false },
      margin: graphs.all.margin(),
      xaxis: xAxis({ title: { text: 'iteration' } }),
      yaxis: yAxis(quantity.title, { type: 'log', ...(quantity.range ? { range: quantity.range, ...ticks(quantity.range) } : {}) }),
    })];
  }

  // What the lines of all layers are held against.
  function references({ series, reference, reference_name: name }) {
    const style = { type: 'scatter', mode: 'lines', hoverinfo: 'name+y', name,
      line: { color: css('--ink'), width: 2, dash: 'dash', shape: 'hv' }, meta: -1 };
    if (reference !== null) {
      return [{ ...style, x: [0, data.last], y: [reference, reference], showlegend: true }];
    }
    const lines = series === 'angle' ? data.equilibria : [];
    return lines.map(([x, y], i) => ({
      ...style, x: data.arrays[x], y: data.arrays[y], showlegend: i === 0,
    }));
  }

  // Titles and labels name what drives the norm of the layer.
  const named = (text, layer) => text.replace('{unit}', layer.unit).replace('{mean}', layer.mean);
  const shownPanels = (layer) => data.panels.filter(({ lines }) => layer.lines[lines[0].series]);

  function drawOne() {
    const layer = data.layers[state.layer];
    const panels = shownPanels(layer);
    const traces = [];
    const notes = [];
    const axes = {};
    const gap = 0.045;
    const height = (1 + gap) / panels.length - gap;
    panels.forEach(({ name, title, lines, log }, row) => {
      const top = 1 - row * (height + gap);
      const key = row ? `yaxis${row + 1}` : 'yaxis';
      const words = [];
      // A line's tone is the place of its colour, where null is the colour of text.
      for (const { series, label, tone, kind, dash, width } of lines) {
        const points = line(layer, series);
        if (!points) continue;
        const text = named(label, layer);
        const ink = tone === null ? css('--ink') : colour(tone);
        traces.push({
          type: 'scatter', mode: mode(layer), ...points, name: text,
          yaxis: row ? `y${row + 1}` : 'y', hoverinfo: 'name+x+y',
          line: { color: ink, width, dash: dash ? 'dash' : 'solid',
            shape: kind === 'steps' ? 'hv' : 'linear' },
        });
        words.push(`<span style="color:${ink}">${text}</span>`);
      }
      const range = layer.ranges[name];
      axes[key] = yAxis(named(title, layer), {
        domain: [Math.max(0, top - height), top], type: range ? 'log' : 'linear',
        ...(log ? {} : { rangemode: 'tozero' }),
        ...(range ? { range, ...ticks(range) } : {}),
      });
      notes.push({ xref: 'paper', yref: 'paper', x: 0.01, y: top, xanchor: 'left',
        yanchor: 'bottom', showarrow: false, text: words.join(' · '), font: { size: 12 } });
    });
    const last = panels.length > 1 ? `y${panels.length}` : 'y';
    return [traces, layout({
      height: 60 + 175 * panels.length, annotations: notes, hovermode: 'x', ...axes,
      xaxis: xAxis({ title: { text: 'iteration' }, anchor: last }),
    })];
  }

  // Ticks that are read at a glance on a logarithmic axis, at least two.
  function ticks([low, high]) {
    const decades = high - low;
    const dtick = decades > 6 ? 2 : decades > 1.2 ? 1 : decades > 0.5 ? 'D2' : 'D1';
    if (low >= -4.5) return { dtick, tickformat: '~g' };
    return { dtick, tickformat: decades > 1.2 ? '' : '~e' };
  }

  // One after the other, so that the first is seen while the others are drawn.
  async function draw(...names) {
    for (const name of names) {
      const made = graphs[name].draw();
      // When the window changes, plotly takes its height from the element, whatever room
      // was kept for it.
      find(name).style.minHeight = '0';
      if (made) find(name).style.height = `${made[1].height}px`;
      if (made) await Plotly.react(find(name), ...made, config());
      await new Promise((done) => { setTimeout(done); });
    }
  }

  // Zooming one figure zooms all.
  function link(name) {
    const graph = find(name);
    if (!graph.on) return;
    graph.on('plotly_relayout', (change) => {
      const low = change['xaxis.range[0]'] ?? change['xaxis.range']?.[0];
      const high = change['xaxis.range[1]'] ?? change['xaxis.range']?.[1];
      if (change['xaxis.autorange']) zoom(null);
      else if (low !== undefined) zoom([low, high]);
    });
  }

  let zooming = false;
  function zoom(range) {
    if (zooming) return;
    zooming = true;
    state.range = range && [Math.max(0, range[0]), Math.min(data.last, range[1])];
    showRange();
    remember();
    Promise.all(Object.keys(graphs).filter((name) => find(name).layout).map(
      (name) => Plotly.relayout(find(name), {
        'xaxis.range': state.range || [0, data.last],
        ...(graphs[name].named ? { annotations: stageNames(name) } : {}),
      }),
    )).finally(() => { zooming = false; });
  }

  function showRange() {
    const [low, high] = state.range || [0, data.last];
    find('from').value = Math.round(low);
    find('to').value = Math.round(high);
    refuse('');
  }

  function typedZoom() {
    const texts = ['from', 'to'].map((id) => find(id).value);
    const [low, high] = texts.map(Number);
    if (texts.includes('')) refuse('Two iterations are wanted, both as whole numbers.');
    else if (low >= high) refuse(`${low} to ${high}: the first iteration must be below the last.`);
    else if (low >= data.last || high <= 0) refuse(`${low} to ${high}: the run has iterations 0 to ${data.last}.`);
    else zoom([low, high]);
  }

  // The figures stay as they are, and the reader is told why.
  function refuse(why) {
    find('refused').textContent = why;
    for (const id of ['from', 'to']) find(id).setAttribute('aria-invalid', why !== '');
  }

  // ---------------------------------------------------------------- address

  // Layer and zoom are in the address, so that a link shows what its sender saw.
  function remember() {
    if (!state.started) return;
    const words = new URLSearchParams({ layer: data.layers[state.layer].name });
    if (state.range) {
      words.set('from', Math.round(state.range[0]));
      words.set('to', Math.round(state.range[1]));
    }
    window.history.replaceState(null, '', `#${words}`);
  }

  function recall() {
    const words = new URLSearchParams(window.location.hash.slice(1));
    const layer = data.layers.findIndex(({ name }) => name === words.get('layer'));
    const [low, high] = ['from', 'to'].map((id) => Number(words.get(id) ?? NaN));
    if (layer >= 0) state.layer = layer;
    if (low >= 0 && high > low && low < data.last) state.range = [low, Math.min(high, data.last)];
    else if (layer >= 0) state.range = null;
    return layer >= 0 || state.range !== null;
  }

  // ---------------------------------------------------------------- one layer

  function choose(index, scroll) {
    state.layer = (index + data.layers.length) % data.layers.length;
    find('layer').value = state.layer;
    remember();
    const layer = data.layers[state.layer];
    const stage = layer.stages[layer.stages.length - 1];
    const about = `${layer.name} (${layer.shape.join(' × ')}): ${stage.state}`
      + ` at the end of ${stageName(stage)}, Δ/Δ* ${number(stage.angle)},`
      + ` ‖w‖/w* ${number(stage.norm)}, ${data.law} ${number(stage.law)}.`
      + (stage.note ? ` ${stage.note[0].toUpperCase()}${stage.note.slice(1)}.` : '');
    find('about').textContent = about;
    const titles = shownPanels(layer).map(({ title }) => named(title, layer)).join(', ');
    describe('one', `${titles} over the run. ${about}`);
    for (const row of document.querySelectorAll('#layers tr')) {
      row.classList.toggle('chosen', Number(row.dataset.layer) === state.layer);
    }
    if (scroll) find('h-layer').scrollIntoView();
    return draw('heat', 'all', 'one');
  }

  // ---------------------------------------------------------------- tables

  function element(tag, text, attributes = {}) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  function options(id, pairs) {
    find(id).replaceChildren(...pairs.map(([value, text]) => element('option', text, { value })));
  }

  // A table that is sorted by its heads. columns: [title, value of a row, cell of a row].
  function sortable(id, columns, first) {
    const table = find(id);
    const sort = { ...first };
    const heads = columns.map(([title], i) => {
      const head = element('th', undefined, { scope: 'col' });
      const button = element('button', title, { type: 'button' });
      button.addEventListener('click', () => {
        sort.down = sort.column === i && !sort.down;
        sort.column = i;
        table.refill();
      });
      head.append(button);
      return head;
    });
    const row = element('tr');
    row.append(...heads);
    const thead = element('thead');
    thead.append(row);
    const body = element('tbody');
    table.append(thead, body);
    const plain = (item) => {
      const made = element('tr', undefined, { 'data-layer': item.layer });
      made.classList.toggle('chosen', item.layer === state.layer);
      made.append(...columns.map(([, take, cell]) => (cell ? cell(item) : element('td', take(item)))));
      return made;
    };
    // Rows in the wanted order, made by a function of them all or each by itself.
    table.fill = (rows, make = (sorted) => sorted.map(plain)) => {
      heads.forEach((head, i) => head.setAttribute('aria-sort',
        i !== sort.column ? 'none' : sort.down ? 'descending' : 'ascending'));
      const value = columns[sort.column][1];
      const sorted = [...rows].sort((a, b) => compare(value(a), value(b), sort.down));
      body.replaceChildren(...make(sorted, plain));
    };
  }

  // What is unknown comes last, whichever way.
  function compare(a, b, down) {
    const missing = (v) => v === null || v === undefined || v === '';
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    const order = typeof a === 'number' ? a - b : String(a).localeCompare(String(b), 'en', { numeric: true });
    return down ? -order : order;
  }

  const numeric = (take, show = number) => (item) => element('td', show(take(item)), { class: 'number' });
  const fixed = (value) => (value === null || Math.abs(value) >= 100 ? number(value) : value.toFixed(3));

  function layerCell(item) {
    const cell = element('td');
    const button = element('button', undefined, { type: 'button' });
    // Long names may break after a dot.
    data.layers[item.layer].short.split('.').forEach((piece, i) => {
      button.append(...(i ? ['.', element('wbr')] : []), piece);
    });
    button.addEventListener('click', () => choose(item.layer, true));
    cell.append(button);
    return cell;
  }

  function verdictCell(item) {
    const signs = { holds: '✓ ', fails: '✗ ', undecided: '? ' };
    // An assumption that fails is no alarm: what follows from it may hold all the same.
    const alarm = item.verdict === 'fails' && item.kind === 'assumption' ? 'undecided' : item.verdict;
    return element('td', (signs[item.verdict] || '') + item.verdict, { class: `${alarm.split(' ')[0]} nowrap-cell` });
  }

  const has = (text, ...where) => where.some((w) => w.toLowerCase().includes(text.trim().toLowerCase()));
  const stageOf = (layer) => layer.stages.find((s) => s.stage === Number(find('stage').value));

  function fillLayers() {
    const wanted = find('state').value;
    const rows = data.layers.flatMap((layer, i) => {
      const stage = stageOf(layer);
      if (!stage || !has(find('find-layer').value, layer.name)) return [];
      return wanted && stage.state !== wanted ? [] : [{ ...stage, layer: i }];
    });
    find('layers').fill(rows);
    find('layers-count').textContent = `${rows.length} of ${data.layers.length} layers`;
  }

  // A reason is kept as the place of its words, and the figures between them.
  function sentence([place, ...figures]) {
    return data.sentences[place].map((words, i) => words + (figures[i] ?? '')).join('');
  }

  // One sentence for reasons of the same words, with the range of each figure.
  function together(reasons) {
    const [place, ...first] = reasons[0];
    return sentence([place, ...first.map((_, i) => {
      const figures = reasons.map((reason) => reason[i + 1]);
      const value = (figure) => Number(figure.replaceAll(',', ''));
      return fromTo(...[0, -1].map((end) => [...figures].sort((a, b) => value(a) - value(b)).at(end)));
    })]);
  }

  function span(values) {
    const known = values.filter((value) => value !== null);
    return known.length ? fromTo(number(Math.min(...known)), number(Math.max(...known))) : number(null);
  }

  function fromTo(low, high) {
    if (low === high) return low;
    // A dash beside a minus would be read as one.
    return /[-−]/.test(low + high) ? `${low} … ${high}` : `${low}–${high}`;
  }

  // Checks of which the same is to be said are one row, which opens. What fails and
  // speaks against the theory is open from the start.
  function groupedRows(sorted, plain) {
    const groups = new Map();
    for (const item of sorted) {
      const key = [item.check, item.verdict, item.reason[0]].join();
      groups.set(key, [...(groups.get(key) || []), item]);
    }
    return [...groups].flatMap(([key, items]) => {
      if (items.length === 1) return [plain(items[0])];
      const alarm = items[0].verdict === 'fails' && items[0].kind === 'conclusion';
      const open = state.open.get(key) ?? alarm;
      return [groupRow(key, items, open), ...(open ? items.map(plain) : [])];
    });
  }

  function groupRow(key, items, open) {
    const row = element('tr', undefined, { class: 'group' });
    const cell = element('td');
    const button = element('button', `${open ? '▾' : '▸'} ${items.length} layers`,
      { type: 'button', 'aria-expanded': open, 'data-group': key });
    button.addEventListener('click', () => {
      state.open.set(key, !open);
      fillChecks();
      const made = [...document.querySelectorAll('#checks [data-group]')];
      made.find((each) => each.dataset.group === key)?.focus();
    });
    cell.append(button);
    const range = (name) => element('td', span(items.map((item) => item[name])), { class: 'number' });
    row.append(cell, element('td', items[0].title), element('td', items[0].kind), verdictCell(items[0]),
      range('value'), range('bound'), range('margin'),
      element('td', together(items.map((item) => item.reason)), { class: 'why' }));
    return row;
  }

  function fillChecks() {
    const [name, verdict, text] = ['check', 'verdicts', 'find-check'].map((id) => find(id).value);
    let total = 0;
    const rows = [];
    data.layers.forEach((layer, i) => {
      const stage = stageOf(layer);
      for (const c of stage ? stage.checks : []) {
        total += 1;
        const reason = data.reasons[c[6]];
        const item = { layer: i, check: c[0], kind: c[1], verdict: c[2], value: c[3],
          bound: c[4], margin: c[5], reason, why: sentence(reason) };
        item.title = (data.checks[item.check] || [item.check])[0];
        if (name && item.check !== name) continue;
        if (verdict && item.verdict !== verdict) continue;
        if (has(text, layer.name, item.title, item.why)) rows.push(item);
      }
    });
    find('checks').fill(rows, groupedRows);
    find('checks-count').textContent = `${rows.length} of ${total} checks of this stage`;
  }

  function makeTables() {
    sortable('layers', [
      ['layer', (r) => data.layers[r.layer].name, layerCell],
      ['state', (r) => r.state, (r) => element('td', r.state, { class: 'nowrap-cell' })],
      ['Δ/Δ*', (r) => r.angle, numeric((r) => r.angle, fixed)],
      ['‖w‖/w*', (r) => r.norm, numeric((r) => r.norm, fixed)],
      [data.law, (r) => r.law, numeric((r) => r.law, fixed)],
      ...(data.white ? [['E[h̃]/E‖g̃‖²', (r) => r.white, numeric((r) => r.white, fixed)]] : []),
      ['why', (r) => r.note, (r) => element('td', r.note, { class: 'why' })],
    ], { column: 2, down: false });
    const ranks = { fails: 0, undecided: 2, holds: 4, 'not applicable': 6 };
    const rank = (r) => ranks[r.verdict] + (r.kind === 'assumption');
    sortable('checks', [
      ['layer', (r) => data.layers[r.layer].name, layerCell],
      ['check', (r) => r.title],
      ['kind', (r) => r.kind],
      ['verdict', rank, verdictCell],
      ['value', (r) => r.value, numeric((r) => r.value)],
      ['bound', (r) => r.bound, numeric((r) => r.bound)],
      ['margin', (r) => r.margin, numeric((r) => r.margin)],
      ['why', (r) => r.why, (r) => element('td', r.why, { class: 'why' })],
    ], { column: 3, down: false });
    find('layers').refill = fillLayers;
    find('checks').refill = fillChecks;
  }

  function fillOptions() {
    options('scale', data.quantities.map(({ series, title }) => [series, title]));
    options('layer', data.layers.map((layer, i) => [i, layer.name]));
    options('stage', [...data.stages].reverse()
      .map((s) => [s.stage, s.names[0]]));
    const stages = data.layers.flatMap((layer) => layer.stages);
    const states = [...new Set(stages.map((s) => s.state))].sort();
    options('state', [['', 'any'], ...states.map((s) => [s, s])]);
    const used = new Set(stages.flatMap((s) => s.checks.map((c) => c[0])));
    options('check', [['', 'any'], ...Object.entries(data.checks)
      .filter(([name]) => used.has(name)).map(([name, [title]]) => [name, title])]);
    options('verdicts', ['', 'fails', 'undecided', 'holds', 'not applicable']
      .map((verdict) => [verdict, verdict || 'any']));
  }

  // ---------------------------------------------------------------- start

  function listen() {
    find('layer').addEventListener('change', (event) => choose(Number(event.target.value)));
    find('previous').addEventListener('click', () => choose(state.layer - 1));
    find('next').addEventListener('click', () => choose(state.layer + 1));
    find('from').addEventListener('change', typedZoom);
    find('to').addEventListener('change', typedZoom);
    find('reset').addEventListener('click', () => zoom(null));
    find('scale').addEventListener('change', () => draw('all'));
    find('find-layer').addEventListener('input', fillLayers);
    find('find-check').addEventListener('input', fillChecks);
    find('state').addEventListener('change', fillLayers);
    find('stage').addEventListener('change', () => { fillLayers(); fillChecks(); });
    for (const id of ['check', 'verdicts']) find(id).addEventListener('change', fillChecks);
    find('see').addEventListener('click', () => find('h-layer').scrollIntoView());
    const redraw = () => draw('heat', 'all', 'one');
    dark.addEventListener('change', redraw);
    window.addEventListener('hashchange', () => {
      if (!recall()) return;
      choose(state.layer);
      zoom(state.range);
    });
    // Names of stages and margins depend on the width; a phone changes its height only
    // when it hides its bar.
    let [width, wait] = [window.innerWidth, 0];
    window.addEventListener('resize', () => {
      if (window.innerWidth === width) return;
      width = window.innerWidth;
      clearTimeout(wait);
      wait = setTimeout(redraw, 150);
    });
  }

  // A finger covers what it points at, and no name stands beside the rows of a phone.
  function touchHeat({ points: [{ y: i, text }] }) {
    if (!narrow()) {
      choose(i, true);
      return;
    }
    const value = text.split('<br>')[1];
    find('touched').hidden = false;
    find('touched').firstElementChild.textContent = `${data.layers[i].name}: ${value} `;
    choose(i);
  }

  fillOptions();
  makeTables();
  fillLayers();
  fillChecks();
  listen();
  find('to').max = data.last;
  recall();
  showRange();
  choose(state.layer).then(() => {
    Object.keys(graphs).forEach(link);
    if (find('heat').on) find('heat').on('plotly_click', touchHeat);
    if (find('all').on) {
      find('all').on('plotly_click', (event) => {
        const { meta } = event.points[0].data;
        if (meta >= 0) choose(meta);
      });
    }
    state.started = true;
    window.smdReady = performance.now();
  });
})();
