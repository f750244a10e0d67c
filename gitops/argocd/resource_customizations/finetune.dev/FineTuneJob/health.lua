-- Health of a FineTuneJob, from its conditions in any order. If Stalled is True, the health is
-- Degraded; if Ready is True, Healthy; if the user suspended the job, Suspended; otherwise
-- Progressing. The health of a job that waits in a queue is Progressing, because with a Suspended
-- resource the sync wave of Argo CD would never complete.

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
  -- Only a change failed; the endpoint still serves the previous build.
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
