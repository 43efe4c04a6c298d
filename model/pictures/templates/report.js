// The map of the report: dots on a canvas that is moved and zoomed, classes that are searched, neighbours that are shown.
"use strict"

{
const {map: data, thumbnails} = JSON.parse(document.getElementById("map-data").textContent)
const unpack = ({type, base64}) => new globalThis[type](Uint8Array.from(atob(base64), c => c.charCodeAt(0)).buffer)
const packed = unpack(data.points), labels = unpack(data.labels), predicted = unpack(data.predicted)
const verdict = unpack(data.verdict), safety = unpack(data.safety), index = unpack(data.index)
const neighbors = unpack(data.neighbors), lengths = unpack(data.lengths)
const cells = thumbnails.count ? unpack(thumbnails.cells) : new Uint8Array(labels.length)
const count = labels.length
const WRONG = 0, RIGHT = 1

// Places in a square of side 1, y downward.
const xs = Float32Array.from({length: count}, (_, i) => packed[2 * i] / 65535)
const ys = Float32Array.from({length: count}, (_, i) => 1 - packed[2 * i + 1] / 65535)

const element = id => document.getElementById(id)
const canvas = element("map"), context = canvas.getContext("2d"), tooltip = element("tooltip"), sprite = element("sprite")

// ------------------------------------------------------------------------------------------------------------ colours

// As in the pictures: ten that people with any kind of colour vision can tell apart; further classes use them again.
const CLASS_COLORS = ["#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581",
  "#92dadd"]
const DARK_CLASS_COLORS = ["#3f90da", "#ffa90e", "#e8482b", "#94a4a2", "#b06be0", "#c08a78", "#e76300", "#b9ac70", "#8d919d",
  "#92dadd"]
const SAFETY_COLORS = ["#bd1f01", "#e76300", "#ffa90e", "#92c5de", "#3f90da", "#1d5fa8"]
const DARK_SAFETY_COLORS = ["#e8482b", "#e76300", "#ffa90e", "#9ccbe8", "#5aa5ee", "#2f7fd6"]
const dark = matchMedia("(prefers-color-scheme: dark)")
const variable = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim()

// Safety in steps that are as wide as the largest that nearly all images keep.
const sizes = safety.filter(Number.isFinite).map(Math.abs).sort()
const width = (sizes[Math.floor(0.95 * (sizes.length - 1))] || 1) / 3
const safetyStep = i => verdict[i] > RIGHT || Number.isNaN(safety[i]) ? -1 : Math.max(0, Math.min(5, 3 + Math.floor(safety[i] / width)))

// A number with two decimals, or more where all numbers like it are small.
const short = (value, scale) => value.toFixed(Math.max(2, Math.min(8, 1 - Math.floor(Math.log10(scale)))))

// Where more are wrong, rings would hide the colours.
const hasRings = verdict.filter(one => one === WRONG).length < count / 4

const present = [...new Set(labels)].sort((a, b) => a - b)
const sizeOf = new Map(present.map(label => [label, 0]))
for (const label of labels) sizeOf.set(label, sizeOf.get(label) + 1)

// What is chosen: how to colour, which classes, which image.
const state = {by: "class", query: "", classes: new Set(), image: -1, hovered: -1, images: false}

const nameOf = label => data.names[label] ?? `class ${label}`

function isShown(label) {
  if (state.classes.size) return state.classes.has(label)
  return !state.query || nameOf(label).toLowerCase().includes(state.query)
}

// The number of the colour of an image, and the colours.
function colorOf(i) {
  if (state.by === "class") return labels[i] % 10
  return state.by === "correctness" ? verdict[i] : safetyStep(i)
}
function palette() {
  if (state.by === "class") return dark.matches ? DARK_CLASS_COLORS : CLASS_COLORS
  if (state.by === "correctness") return [variable("--wrong"), variable("--right"), variable("--faint")]
  return dark.matches ? DARK_SAFETY_COLORS : SAFETY_COLORS
}

// -------------------------------------------------------------------------------------------------------------- drawing

// A place p of the map is at p * zoom + (left, top) on the canvas, in pixels of the page.
const at = {zoom: 1, left: 0, top: 0}
let isAsked = false

const across = i => xs[i] * at.zoom + at.left
const down = i => ys[i] * at.zoom + at.top
const whole = () => Math.max(1, Math.min(canvas.clientWidth, canvas.clientHeight) - 40)
const radius = () => Math.max(1.5, Math.min(7, 110 / Math.sqrt(count)) * Math.sqrt(Math.min(4, at.zoom / whole())) )

function showAll() {
  at.zoom = whole()
  const [x, y] = [xs, ys].map(places => (places.reduce((a, b) => Math.min(a, b)) + places.reduce((a, b) => Math.max(a, b))) / 2)
  at.left = canvas.clientWidth / 2 - x * at.zoom
  at.top = canvas.clientHeight / 2 - y * at.zoom
  draw()
}

// On a canvas of another size the same place is in the middle, and the zoom is the same part of the whole map.
let lastSize = null
function resize() {
  const size = {wide: canvas.clientWidth, high: canvas.clientHeight, whole: whole()}
  if (!size.wide) return  // it is hidden
  if (lastSize) {
    const grown = size.whole / lastSize.whole
    at.zoom *= grown
    at.left = size.wide / 2 - (lastSize.wide / 2 - at.left) * grown
    at.top = size.high / 2 - (lastSize.high / 2 - at.top) * grown
    draw()
  } else showAll()
  lastSize = size
}

function zoomBy(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
  const zoom = Math.max(whole() / 4, Math.min(whole() * 400, at.zoom * factor))
  at.left = x - (x - at.left) * zoom / at.zoom
  at.top = y - (y - at.top) * zoom / at.zoom
  at.zoom = zoom
  draw()
}

function draw() {
  if (!isAsked) requestAnimationFrame(drawNow)
  isAsked = true
}

function drawNow() {
  isAsked = false
  const ratio = devicePixelRatio || 1, wide = canvas.clientWidth, high = canvas.clientHeight
  if (canvas.width !== Math.round(wide * ratio) || canvas.height !== Math.round(high * ratio)) {
    canvas.width = Math.round(wide * ratio)
    canvas.height = Math.round(high * ratio)
  }
  context.setTransform(ratio, 0, 0, ratio, 0, 0)
  context.clearRect(0, 0, wide, high)
  const colors = palette(), faint = variable("--faint"), text = variable("--text"), size = radius()
  const groups = colors.map(() => []), others = [], wrong = []
  for (let i = 0; i < count; i++) {
    const x = across(i), y = down(i)
    if (x < -50 || y < -50 || x > wide + 50 || y > high + 50) continue
    if (!isShown(labels[i])) { others.push(i); continue }
    (groups[colorOf(i)] ?? others).push(i)
    if (verdict[i] === WRONG) wrong.push(i)
  }
  context.globalAlpha = 0.35
  drawDots(others, faint, size)
  context.globalAlpha = 0.85
  // By correctness and safety what is rare and bad comes last, on top. Below the images are the dots of those without.
  const hasImages = state.images && thumbnails.count, isDot = i => !hasImages || !cells[i]
  const order = state.by === "class" ? groups.keys() : [...groups.keys()].reverse()
  for (const number of order) drawDots(groups[number].filter(isDot), colors[number], size)
  context.globalAlpha = 1
  if (state.by === "class" && hasRings) drawRings(wrong.filter(isDot), text, size + 1.5, 0.7)
  if (hasImages) drawImages(groups.flat(), wide, high)
  context.globalAlpha = 1
  drawNames()
  if (state.image >= 0) {
    drawRings(neighborsOf(state.image), text, size + 3, 1.5)
    drawRings([state.image], text, size + 5, 3)
  }
  if (canvas.matches(":focus-visible")) drawCross(wide / 2, high / 2, text)
}

function drawDots(some, color, size) {
  context.fillStyle = color
  context.beginPath()
  for (const i of some) {
    const x = across(i), y = down(i)
    context.moveTo(x + size, y)
    context.arc(x, y, size, 0, 7)
  }
  context.fill()
}

function drawRings(some, color, size, lineWidth) {
  context.strokeStyle = color
  context.lineWidth = lineWidth
  context.beginPath()
  for (const i of some) {
    const x = across(i), y = down(i)
    context.moveTo(x + size, y)
    context.arc(x, y, size, 0, 2 * Math.PI)
  }
  context.stroke()
}

// As many of the images as find a place, in frames of their colour.
function drawImages(some, wide, high) {
  const side = 30, taken = new Set(), colors = palette()
  context.globalAlpha = 1
  for (const i of some) {
    const column = Math.floor(across(i) / side), row = Math.floor(down(i) / side), place = row * 10_000 + column
    if (!cells[i] || taken.has(place)) continue
    taken.add(place)
    const scale = (side - 4) / Math.max(thumbnails.width, thumbnails.height)
    const w = thumbnails.width * scale, h = thumbnails.height * scale
    const x = column * side + (side - w) / 2, y = row * side + (side - h) / 2
    context.fillStyle = colors[colorOf(i)]
    context.fillRect(x - 2, y - 2, w + 4, h + 4)
    drawCell(context, i, x, y, w, h)
  }
}

function drawCell(target, i, x, y, w, h) {
  const cell = cells[i] - 1
  const left = cell % thumbnails.columns * thumbnails.width, top = Math.floor(cell / thumbnails.columns) * thumbnails.height
  target.imageSmoothingEnabled = !thumbnails.isSmall || w < thumbnails.width
  target.drawImage(sprite, left, top, thumbnails.width, thumbnails.height, x, y, w, h)
}

// The names of few classes, each above the middle of its dots.
const middles = new Map()
function middleOf(label) {
  if (!middles.has(label)) {
    const places = []
    for (let i = 0; i < count; i++) if (labels[i] === label) places.push(i)
    const [x, y] = [xs, ys].map(values => places.map(i => values[i]).sort((a, b) => a - b)[places.length >> 1])
    middles.set(label, [x, y])
  }
  return middles.get(label)
}
function drawNames() {
  const named = present.filter(isShown)
  if (named.length > 40) return
  context.font = "600 14px system-ui, sans-serif"
  context.textAlign = "center"
  context.lineJoin = "round"
  context.lineWidth = 4
  context.strokeStyle = variable("--ground")
  context.fillStyle = variable("--text")
  for (const label of named) {
    const [x, y] = middleOf(label)
    const name = tail(nameOf(label), named.length > 12 ? 18 : 30)
    const place = [name, x * at.zoom + at.left, y * at.zoom + at.top]
    context.strokeText(...place)
    context.fillText(...place)
  }
}

// A name that is short enough: its folders go first, from the outside, for its end tells classes apart.
function tail(name, most) {
  const folders = name.split("/")
  for (let first = 1; name.length > most && first < folders.length; first++) name = `…/${folders.slice(first).join("/")}`
  return name.length <= most ? name : `…${name.slice(1 - most)}`
}

function drawCross(x, y, color) {
  context.strokeStyle = color
  context.lineWidth = 1.5
  context.beginPath()
  for (const [a, b] of [[1, 0], [0, 1]]) {
    context.moveTo(x - 9 * a, y - 9 * b)
    context.lineTo(x + 9 * a, y + 9 * b)
  }
  context.stroke()
}

// ------------------------------------------------------------------------------------------------- an image, in words

const neighborsOf = i => Array.from(neighbors.slice(i * data.neighborsEach, (i + 1) * data.neighborsEach))

function nearestTo(x, y, reach) {
  let found = -1, least = reach * reach
  for (let i = 0; i < count; i++) {
    if (!isShown(labels[i])) continue
    const square = (across(i) - x) ** 2 + (down(i) - y) ** 2
    if (square < least) { least = square; found = i }
  }
  return found
}

function words(i) {
  const lines = [`image ${index[i]}: ${nameOf(labels[i])}`]
  if (data.files) lines.push(data.files[i])
  lines.push(`nearest ${data.oneOfGallery}: ${nameOf(predicted[i])}`)
  if (verdict[i] > RIGHT) lines.push(`no ${data.oneOfGallery} is of its class`)
  else if (Number.isFinite(safety[i])) lines.push(`${verdict[i] === WRONG ? "wrong" : "right"}, safety ${short(safety[i], width)}`)
  return lines
}

function thumbnail(i, side, isWrong) {
  const picture = document.createElement("canvas")
  const wide = thumbnails.width || side, high = thumbnails.height || side, scale = side / Math.max(wide, high)
  const ratio = devicePixelRatio || 1
  for (const [name, length] of [["width", wide], ["height", high]]) {
    picture.style[name] = `${length * scale}px`
    picture[name] = Math.max(1, Math.round(length * scale * ratio))
  }
  picture.className = `thumbnail${thumbnails.isSmall ? " small" : ""}${isWrong ? " wrong" : ""}`
  picture.setAttribute("role", "img")
  const name = `image ${index[i]}${data.files ? `, ${data.files[i]}` : ""}`
  picture.setAttribute("aria-label", cells[i] ? name : `${name}, whose picture is not in this page`)
  if (cells[i]) drawCell(picture.getContext("2d"), i, 0, 0, picture.width, picture.height)
  return picture
}

function lines(texts) {
  const block = document.createElement("div")
  for (const text of texts) block.append(Object.assign(document.createElement("div"), {textContent: text}))
  return block
}

function choose(i) {
  state.image = i
  const place = element("chosen"), list = element("neighbors")
  list.replaceChildren()
  if (i < 0) place.replaceChildren(lines(["Click a dot."]))
  else {
    place.replaceChildren(thumbnail(i, 96, false), lines(words(i)))
    neighborsOf(i).forEach((j, k) => {
      const isOther = labels[j] !== labels[i]
      const length = lengths[i * data.neighborsEach + k] / 65535 * data.longest
      const button = Object.assign(document.createElement("button"), {type: "button"})
      button.append(thumbnail(j, 48, isOther),
        lines([tail(nameOf(labels[j]), 32), `distance ${short(length, data.longest)}${isOther ? ", another class" : ""}`]))
      button.addEventListener("click", () => {
        choose(j)
        list.querySelector("button")?.focus({preventScroll: true})
        canvas.scrollIntoView({block: "nearest"})
      })
      const item = document.createElement("li")
      item.append(button)
      list.append(item)
    })
  }
  draw()
}

function point(x, y) {
  const i = nearestTo(x, y, 14)
  if (i === state.hovered && !tooltip.hidden) return
  state.hovered = i
  tooltip.hidden = i < 0
  if (i < 0) return
  tooltip.replaceChildren(thumbnail(i, 96, false), lines(words(i)))
  const left = across(i), top = down(i)
  tooltip.style.left = `${left > canvas.clientWidth / 2 ? Math.max(0, left - tooltip.offsetWidth - 14) : left + 14}px`
  tooltip.style.top = `${Math.max(0, Math.min(canvas.clientHeight - tooltip.offsetHeight, top - 20))}px`
}

// ------------------------------------------------------------------------------------------------- mouse, fingers, keys

const fingers = new Map()
let isDragged = false
canvas.addEventListener("pointerdown", event => {
  if (event.button) return
  canvas.setPointerCapture(event.pointerId)
  fingers.set(event.pointerId, [event.offsetX, event.offsetY])
  if (fingers.size === 1) isDragged = false
})
canvas.addEventListener("pointermove", event => {
  if (!event.buttons) fingers.delete(event.pointerId)  // it was let go where a menu was open
  const now = [event.offsetX, event.offsetY], before = fingers.get(event.pointerId)
  if (!before) return point(...now)
  if (fingers.size === 1) {
    if (!isDragged && Math.hypot(now[0] - before[0], now[1] - before[1]) < 4) return
    isDragged = true
    at.left += now[0] - before[0]
    at.top += now[1] - before[1]
  } else {
    isDragged = true
    const [other] = [...fingers].filter(([id]) => id !== event.pointerId).map(([, place]) => place)
    const apart = ([a, b]) => Math.max(1, Math.hypot(a - other[0], b - other[1]))
    zoomBy(apart(now) / apart(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2)
  }
  fingers.set(event.pointerId, now)
  tooltip.hidden = true
  draw()
})
canvas.addEventListener("pointerup", event => {
  if (fingers.delete(event.pointerId) && !fingers.size && !isDragged) choose(nearestTo(event.offsetX, event.offsetY, 14))
})
canvas.addEventListener("pointercancel", event => fingers.delete(event.pointerId))
canvas.addEventListener("pointerleave", () => { tooltip.hidden = true })
canvas.addEventListener("wheel", event => {
  event.preventDefault()
  tooltip.hidden = true
  zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), event.offsetX, event.offsetY)
}, {passive: false})

const STEP = 60
const keys = {
  ArrowLeft: () => { at.left += STEP }, ArrowRight: () => { at.left -= STEP },
  ArrowUp: () => { at.top += STEP }, ArrowDown: () => { at.top -= STEP },
  "+": () => zoomBy(1.4), "=": () => zoomBy(1.4), "-": () => zoomBy(1 / 1.4), 0: showAll,
  Enter: () => choose(nearestTo(canvas.clientWidth / 2, canvas.clientHeight / 2, Infinity)), Escape: () => choose(-1),
}
canvas.addEventListener("keydown", event => {
  if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return
  event.preventDefault()
  keys[event.key]()
  draw()
})
for (const name of ["focus", "blur"]) canvas.addEventListener(name, draw)

element("zoom-in").addEventListener("click", () => zoomBy(1.4))
element("zoom-out").addEventListener("click", () => zoomBy(1 / 1.4))
element("reset").addEventListener("click", showAll)
element("show-images").addEventListener("change", event => { state.images = event.target.checked; draw() })
element("color-by").addEventListener("change", event => { state.by = event.target.value; showKey(); listClasses(); draw() })

// ---------------------------------------------------------------------------------------------- classes, and their key

const MOST_LISTED = 100

function listClasses() {
  const matching = present.filter(label => !state.query || nameOf(label).toLowerCase().includes(state.query))
  const others = matching.filter(label => !state.classes.has(label))
  const colors = dark.matches ? DARK_CLASS_COLORS : CLASS_COLORS
  element("classes").replaceChildren(...[...state.classes, ...others.slice(0, MOST_LISTED)].map(label => {
    const button = Object.assign(document.createElement("button"), {type: "button"})
    button.setAttribute("aria-pressed", state.classes.has(label))
    if (state.by === "class") {
      const swatch = Object.assign(document.createElement("span"), {className: "swatch"})
      swatch.style.background = colors[label % 10]
      button.append(swatch)
    }
    const name = Object.assign(document.createElement("span"), {textContent: tail(nameOf(label), 34), title: nameOf(label)})
    button.append(name, Object.assign(document.createElement("span"), {className: "count", textContent: sizeOf.get(label)}))
    button.addEventListener("click", () => {
      if (!state.classes.delete(label)) state.classes.add(label)
      button.setAttribute("aria-pressed", state.classes.has(label))
      tell(others)
      draw()
    })
    const item = document.createElement("li")
    item.append(button)
    return item
  }))
  tell(others)
}

function tell(others) {
  const shown = present.filter(isShown)
  const images = shown.reduce((sum, label) => sum + sizeOf.get(label), 0)
  const parts = [`${shown.length.toLocaleString("en")} classes, ${images.toLocaleString("en")} images are shown`]
  if (state.classes.size) parts.push("click their names again to show the others")
  if (others.length > MOST_LISTED) parts.push(`the first ${MOST_LISTED} are listed, type to find others`)
  element("found").textContent = `${parts.join("; ")}.`
}

element("search").addEventListener("input", event => {
  state.query = event.target.value.trim().toLowerCase()  // what is chosen stays, and is listed first
  listClasses()
  draw()
})

function showKey() {
  const counted = [0, 0, 0]
  for (const one of verdict) counted[one]++
  const said = {
    class: [[null, `${new Set(present.map(label => label % 10)).size < present.length ? "Ten colours, used again and again. " : ""}${hasRings ? "Thin ring: wrong." : ""}`]],
    correctness: ["wrong", "right", `no ${data.oneOfGallery} of its class`].map((name, i) => [i, `${name} (${counted[i].toLocaleString("en")})`]).filter(([i]) => counted[i]),
    safety: [...SAFETY_COLORS.keys()].map(i => {
      const from = short((i - 3) * width, width), to = short((i - 2) * width, width)
      return [i, i === 0 ? `below ${to}` : i === 5 ? `above ${from}` : `${from} to ${to}`]
    }).concat(counted[2] ? [[null, `Faint: no ${data.oneOfGallery} of its class.`]] : []),
  }[state.by]
  const colors = palette()
  element("key").replaceChildren(...said.map(([number, text]) => {
    const item = document.createElement("span")
    if (number !== null) {
      const swatch = Object.assign(document.createElement("span"), {className: "swatch"})
      swatch.style.background = colors[number]
      item.append(swatch)
    }
    item.append(text)
    return item
  }))
}

dark.addEventListener("change", () => { showKey(); listClasses(); draw() })
new ResizeObserver(resize).observe(canvas)
if (thumbnails.count) sprite.decode().then(() => { draw(); if (state.image >= 0) choose(state.image) })
showKey()
listClasses()
choose(-1)
}
