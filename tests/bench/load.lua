-- wrk's side of a load: requests by number from one template, and the sums as one JSON line.
-- Arguments: file of the template, file of the request's head lines, mode, count, first number.
-- Modes: cycle (numbers first .. first + count - 1 in turn, made before), uniform (drawn from them,
-- made as they go), fresh (each number once).
local head, before, after, made, mode, count, first, at

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

local function make(number)
  return head .. before .. string.format("%012d", number) .. after
end

function init(args)
  local template = read(args[1])
  local start, stop = template:find(string.rep("@", 12), 1, true)
  before, after = template:sub(1, start - 1), template:sub(stop + 1)
  head = read(args[2]) .. "Content-Length: " .. #template .. "\r\n\r\n"
  mode, count, first, at = args[3], tonumber(args[4]), tonumber(args[5]), 0
  if mode == "cycle" then
    made = {}
    for n = 1, count do made[n] = make(first + n - 1) end
  end
  math.randomseed(first + 7)
end

function request()
  if mode == "cycle" then
    at = at % count + 1
    return made[at]
  elseif mode == "uniform" then
    return make(first + math.random(0, count - 1))
  end
  at = at + 1
  return make(first + at)
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %f, "bytes": %d, "p50": %d, "p90": %d, "p99": %d, "failed": %d, "refused": %d}\n',
    summary.requests, summary.duration / 1e6, summary.bytes, latency:percentile(50),
    latency:percentile(90), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.timeout, errors.status))
end
