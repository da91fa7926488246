-- Lets the roles of roles.sql log in, with passwords from the environment: they are in no file and in no list of
-- processes. Safe to run again; to change a password, run it with the new one.

\getenv api_password ADMITONE_API_PASSWORD
\getenv worker_password ADMITONE_WORKER_PASSWORD
\getenv tidy_password ADMITONE_TIDY_PASSWORD

ALTER ROLE admitone_api LOGIN PASSWORD :'api_password';
ALTER ROLE admitone_worker LOGIN PASSWORD :'worker_password';
ALTER ROLE admitone_tidy LOGIN PASSWORD :'tidy_password';
