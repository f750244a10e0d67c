-- Health of a FineTuneJob, from its conditions by type, regardless of their order:
-- Stalled is Degraded, Ready is Healthy, suspended by the user is Suspended, all others are
-- Progressing. A job that waits in a queue is Progressing, too: Argo CD treats Suspended as
-- unfinished and would never complete the sync wave.

local health = {
  status = "Progressing",
  message = "Waiting for the operator to observe the FineTuneJob",
}

if obj.status == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  return health
end

local conditions = {}
for _, condition in ipairs(obj.status.conditions or {}) do
  conditions[condition.type] = condition
end

local function is_true(type)
  return conditions[type] ~= nil and conditions[type].status == "True"
end

local ready = conditions["Ready"]
if ready == nil then
  return health
end
health.message = ready.reason .. ": " .. ready.message

if is_true("Stalled") then
  health.status = "Degraded"
  -- The failed change does not affect the endpoint, unlike an endpoint that is down.
  if is_true("Serving") then
    local build = (obj.status.serving or {}).build or "an earlier build"
    health.message = "The change failed, build " .. build .. " is still serving: " .. health.message
  end
elseif is_true("Ready") then
  health.status = "Healthy"
elseif is_true("Suspended") and conditions["Suspended"].reason == "SuspendedByUser" then
  health.status = "Suspended"
end

return health
